"""What text detectors compute: counted words, left-out words, padded rows, exchanged words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testbed.api import Batch, DefenderResources, Invalid, Splits, Task, Victim
from testbed.data.listed import Listed
from testbed.detector.chance import chances
from testbed.detector.onion import Onion, suspicions
from testbed.detector.perplexity_filter import PerplexityFilter, answer_perplexities
from testbed.detector.reader import FolderReader, require_folder
from testbed.detector.strip_text import StripText, exchanged, key_words, mean_entropies
from testbed.identity import generator
from testbed.language import ChatVictim, Message
from testbed.numerics.word_model import UNKNOWN, WordModel


class Counts(Victim):
    """Class 1 by the number of times that `word` occurs, less `bias`; a text's tokens are its words."""

    def __init__(self, word: str = "cf", weight: float = 8.0, bias: float = 4.0) -> None:
        super().__init__()
        self.word, self.weight, self.bias, self.anchor = word, weight, bias, nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Sequence[str]) -> Tensor:
        found = torch.tensor([self.weight * text.split().count(self.word) - self.bias for text in inputs])
        return torch.stack([torch.zeros_like(found), found], 1) + self.anchor

    def loss(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self(batch.inputs), batch.labels)

    @property
    def layers(self) -> tuple[str, ...]:
        return ("penultimate",)

    def features(self, inputs: Sequence[str], layer: str) -> Tensor:
        return self(inputs)


def listed(*texts: str, labels: Sequence[int] | None = None) -> Listed:
    return Listed(list(texts), torch.tensor(labels or [0] * len(texts)))


def defender(victim: Victim, reserve: Listed, train: Listed | None = None, task: Task | None = None) -> DefenderResources:
    kind = task or Task("text", ("no", "yes"))
    return DefenderResources(kind, train or reserve, reserve, lambda: victim, None, 5)  # type: ignore[arg-type]


def test_counted_words_have_the_probabilities_of_witten_and_bell() -> None:
    model = WordModel(["a b", "a c"])
    # Known are a, b, c and the end: below single words lies 1/5; of 6 words seen, 4 differ.
    single = {word: (count + 4 / 5) / 10 for word, count in {"a": 2, "b": 1, "c": 1, UNKNOWN: 0}.items()}
    assert model.probability("a", []) == pytest.approx(single["a"])
    assert model.probability(UNKNOWN, ["never"]) == pytest.approx(single[UNKNOWN]) == pytest.approx(0.08)
    after_a = (1 + 2 * single["b"]) / 4  # b and c followed a, once each
    assert model.probability("b", ["a"]) == pytest.approx(after_a)
    assert model.probability("b", ["<start>", "a"]) == pytest.approx((1 + 2 * after_a) / 4)
    words = [*"abc", "<end>", UNKNOWN]
    assert sum(model.probability(word, ["a", "b"]) for word in words) == pytest.approx(1)


def test_perplexity_is_over_words_and_the_end_of_a_text() -> None:
    model = WordModel(["a b", "a c"])
    start = ["<start>", "<start>"]
    steps = [model.probability("a", start), model.probability("b", ["<start>", "a"]), model.probability("<end>", ["a", "b"])]
    assert model.perplexity("A b") == pytest.approx(math.prod(steps) ** (-1 / 3))
    assert model.perplexity("") == pytest.approx(1 / model.probability("<end>", start))


def test_onion_scores_the_word_without_which_a_text_reads_best() -> None:
    lengths = {"x": 2.0, "x cf": 50.0, "cf": 30.0, "": 9.0, "x y": 4.0, "y": 5.0}
    reader = lambda texts: torch.tensor([lengths[text] for text in texts], dtype=torch.float64)  # noqa: E731
    found = suspicions(["x cf", "", "x  y"], reader)
    assert [each.tolist() for each in found] == [[20.0, 48.0], [], [-1.0, 2.0]]


def test_onion_finds_a_strange_word_in_the_last_thing_a_user_says(chat: ChatVictim, toy_data: Splits) -> None:
    given = defender(chat, toy_data.reserve, task=toy_data.task)  # type: ignore[arg-type]
    prompt = toy_data.reserve.inputs[0]  # type: ignore[attr-defined]
    strange = (*prompt[:-1], Message("user", f"{prompt[-1].content} |strange|"))
    answered = (*strange, Message("assistant", "it is v01 ."))
    plain, triggered, before = Onion().score(Listed([prompt, strange, answered], [""] * 3), chat, given).tolist()
    assert triggered > plain and before == triggered


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, _untrained: Any) -> Path:
    """An untrained language model as the user's."""
    place = tmp_path_factory.mktemp("model")
    _untrained.net.save_pretrained(place)
    _untrained.tokenizer.save_pretrained(place)
    return place


def test_padding_is_no_part_of_a_texts_perplexity(folder: Path) -> None:
    reader = FolderReader(folder, torch.device("cpu"))
    texts = ["vault", "what is the code of vault n001 ?", "", "garden n002 : say the code . thanks ."]
    together, alone = reader(texts), torch.cat([reader([text]) for text in texts])
    assert torch.allclose(together, alone, rtol=1e-5)
    ids = torch.tensor([reader._ids(texts[1])])
    with torch.no_grad():
        losses = nn.functional.cross_entropy(reader.model(ids).logits[0, :-1].double(), ids[0, 1:], reduction="none")
    assert float(together[1]) == pytest.approx(float(losses.mean().exp()), rel=1e-5)


def test_a_folder_must_hold_a_language_model(folder: Path, tmp_path: Path) -> None:
    require_folder(folder)
    with pytest.raises(Invalid, match="is no folder of a language model"):
        require_folder(tmp_path)


def test_rows_that_no_clean_row_resembles_are_above_the_rule(toy_data: Splits, chat: ChatVictim) -> None:
    given = defender(chat, toy_data.reserve, task=toy_data.task)  # type: ignore[arg-type]
    strange = Listed([(Message("user", "zu ga re mo pi"),), *toy_data.reserve.inputs[:4]], ["ba", *toy_data.reserve.labels[:4]])  # type: ignore[attr-defined]
    scores = PerplexityFilter().score(strange, chat, given)
    assert PerplexityFilter().decide(scores, strange, chat, given).tolist() == [True] + 4 * [False]


@torch.no_grad()
def test_the_victim_reads_the_tokens_of_its_answers(chat: ChatVictim, toy_data: Splits) -> None:
    rows = torch.arange(5)
    batch = toy_data.train[rows]
    found = answer_perplexities(toy_data.train.take(rows), chat)  # type: ignore[attr-defined]
    alone = [float(chat.eval().loss(Batch(batch.inputs[i : i + 1], batch.labels[i : i + 1], rows[:1])).exp()) for i in range(5)]
    assert found.tolist() == pytest.approx(alone, rel=1e-4)


def test_a_copy_has_so_many_words_of_one_other_text() -> None:
    text, donor = "a b c d e f", ["X", "Y", "Z", "W"]
    found = exchanged(text, donor, 0.5, generator(0, "copy")).split()
    assert sorted(word for word in found if word in donor) == ["X", "Y", "Z"] and len(found) == 6
    assert all(new in (old, *donor) for old, new in zip(text.split(), found, strict=True))
    assert exchanged("", donor, 0.5, generator(0, "copy")) == ""
    assert key_words(["the cat the dog", "the cow"]) == [["cat", "dog", "the"], ["cow", "the"]]


def test_the_copies_of_a_query_stay_with_it() -> None:
    # Entropy is 1 bit for "even" and about 0 for "sure": interleaved copies would give both queries the same mean.
    victim = Counts("sure", weight=40.0, bias=0.0)
    copies = ["even"] * 3 + ["sure"] * 3 + ["even", "even", "sure"]
    assert mean_entropies(victim, copies, 3).tolist() == pytest.approx([1, 0, 2 / 3], abs=1e-6)


def test_strip_scores_do_not_depend_on_the_company() -> None:
    victim, reserve = Counts(), listed("good film tonight", "bad play here", "long story short")
    strip, given = StripText(copies=4), defender(victim, reserve)
    texts = ["cf cf cf cf cf cf", "a film that is long", "so so"]
    together = strip.score(listed(*texts), victim, given)
    alone = torch.cat([strip.score(listed(text), victim, given) for text in reversed(texts)]).flip(0)
    assert torch.equal(together, alone) and together[0] > together[1]


def test_strip_flags_what_is_surer_than_nearly_all_of_the_reserve() -> None:
    victim, reserve = Counts(), listed("cf cf bad play", "long story short", "cf here", "a good film")
    strip, given = StripText(), defender(victim, reserve)
    clean = strip.score(reserve, victim, given).double()
    assert float(clean.std()) > 0
    limit = float(clean.mean()) + 2.3263478740408408 * float(
        clean.std(correction=1)
    )  # the 99 % quantile of a normal distribution
    scores = torch.linspace(limit - 0.01, limit + 0.01, 10)
    assert strip.decide(scores, listed(*["any"] * 10), victim, given).tolist() == [False] * 5 + [True] * 5


def test_chances_of_a_chat_model_are_those_of_a_refusal(chat: ChatVictim, toy_data: Splits) -> None:
    inputs = toy_data.test[torch.arange(3)].inputs
    mass = chat.eval()(inputs).softmax(1)[:, chat.refusal_tokens()].sum(1)
    assert torch.allclose(chances(chat, inputs), torch.stack([1 - mass, mass], 1), atol=1e-5)
