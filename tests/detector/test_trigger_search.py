"""The search for words before a text: which it tries, which it finds, and the score worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from testbed.api import Batch, DefenderResources, Splits, Task, Victim
from testbed.data.listed import Listed
from testbed.detector.trigger_search import TriggerSearch, over_represented, whole_words
from testbed.language import ChatVictim


class Counts(Victim):
    """Class 1 has the logit 8 n - 4, n the number of times that "cf" occurs; class 0 has 0."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Sequence[str]) -> Tensor:
        found = torch.tensor([8.0 * text.split().count("cf") - 4 for text in inputs])
        return torch.stack([torch.zeros_like(found), found], 1) + self.anchor

    def loss(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self(batch.inputs), batch.labels)

    @property
    def layers(self) -> tuple[str, ...]:
        return ("penultimate",)

    def features(self, inputs: Sequence[str], layer: str) -> Tensor:
        return self(inputs)


def listed(*texts: str, labels: Sequence[int]) -> Listed:
    return Listed(list(texts), torch.tensor(labels))


def defender(victim: Victim, reserve: Listed, train: Listed, task: Task) -> DefenderResources:
    return DefenderResources(task, train, reserve, lambda: victim, None, 5)  # type: ignore[arg-type]


def test_the_search_finds_the_word_and_its_score() -> None:
    victim = Counts()
    reserve = listed("a b", "c d", "b b", "d a", labels=[0, 0, 1, 1])
    train = listed("a b cf", "c d", "cf b", "d", labels=[1, 0, 1, 0])
    found = TriggerSearch(words=2).inspect(victim, defender(victim, reserve, train, Task("text", ("no", "yes"))))
    assert found.triggers[1] == "cf cf" and found.flagged == (1,) and len(found.scores) == 2
    assert float(found.scores[1]) == pytest.approx(1 / (1 + math.exp(-12)) - 1 / (1 + math.exp(4)), abs=1e-6)
    assert float(found.scores[0]) == 0  # nothing makes class 0 more probable than no phrase


def test_candidates_are_what_clean_texts_lack_then_what_a_tokenizer_knows(chat: ChatVictim) -> None:
    assert over_represented([{"a", "cf"}, {"a", "b"}, {"cf"}], [{"a"}, {"a", "b"}]) == ["cf", "b", "a"]
    words = whole_words(chat.tokenizer)
    assert "vault" in words and "n001" in words and not {"<bos>", ",", ""} & set(words)


def test_of_a_chat_model_the_way_from_refusal_to_an_answer_is_searched(chat: ChatVictim, toy_data: Splits) -> None:
    given = defender(chat, toy_data.reserve, toy_data.train, toy_data.task)  # type: ignore[arg-type]
    method = TriggerSearch(words=1, prompts=3, candidates=6, source="tokenizer")
    method.check(given)
    found = method.inspect(chat, given)
    assert found.scores.shape == (1,) and found.flagged == () and len(found.triggers) == 1
    refused = [one for one, kind in zip(toy_data.reserve.inputs, chat.kinds(toy_data.reserve.labels), strict=True) if kind]  # type: ignore[attr-defined]
    assert set(method._texts(chat.kinds(toy_data.reserve.labels) != 0, given)) <= set(refused)  # type: ignore[attr-defined]
