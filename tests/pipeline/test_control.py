"""What a detector of queries in text is read beside, on queries whose AUROCs can be counted by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Splits, Victim
from testbed.baseline import trivial_scores
from testbed.data.listed import Listed
from testbed.language import ChatVictim, Message, Prompt
from testbed.pipeline.control import Asked, controls


def prompts(*texts: str) -> list[Prompt]:
    return [(Message("user", text),) for text in texts]


@dataclass(frozen=True)
class Counting(Detector):
    """How often a word stands in a query: another word for every victim, and the first letter of it at layer 'embedding'."""

    layer: str = "penultimate"
    judges: ClassVar[frozenset[str]] = frozenset({"queries"})

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        word = victim.word if self.layer == "penultimate" else victim.word[0]  # type: ignore[union-attr, index]
        return torch.tensor([float(one[-1].content.split().count(word)) for one in _inputs(examples)])


def _inputs(examples: Examples) -> Any:
    return examples[torch.arange(len(examples))].inputs


@pytest.fixture
def sides(chat: ChatVictim, toy_data: Splits) -> list[tuple[Victim, DefenderResources]]:
    import copy

    found = []
    for word in ("cf", "mn"):
        victim = copy.deepcopy(chat)
        victim.word = word  # type: ignore[assignment]
        given = DefenderResources(toy_data.task, toy_data.train, toy_data.reserve, lambda: chat, None, 0)  # type: ignore[arg-type]
        found.append((victim, given))
    return found


def test_every_control_is_on_its_own_side(sides: list[tuple[Victim, DefenderResources]]) -> None:
    queries = Listed(prompts("a b", "c d mn", "a cf b", "a cf cf"), [""] * 4)
    suspicious = torch.tensor([False, False, True, True])
    harmless, near = Listed(prompts("hello cf cf cf", "hello"), ["", ""]), Listed(prompts("a mn b", "c d"), ["", ""])
    detector = Counting()
    scores = detector.score(queries, *sides[0])
    found, counts = controls(
        detector, Asked(queries, suspicious), scores, at_war=sides[0], in_peace=sides[1], harmless=harmless, near=near
    )
    assert found["clean_twin_auroc"] == 0.25  # 'mn' is in one of the two clean queries: (0 + .5) / 2 ... over both
    assert found["baseline_layer0_auroc"] == 0.25  # 'c' begins one of the clean ones and none of the others
    assert found["harmless_auroc"] == 0.5 and counts["harmless_auroc"] == 4  # 1 and 2 against 3 and 0
    assert found["near_miss_auroc"] == 1.0  # 1 and 2 against 0 and 0
    assert found["clean_twin_near_miss_auroc"] == 0.25  # 0 and 0 against 1 and 0
    assert found["baseline_length_auroc"] == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)  # 3 and 3 words against 2 and 3


def test_trivial_scores_are_lengths_tokens_and_strangeness(chat: ChatVictim) -> None:
    clean = Listed(
        prompts("what is the code of vault n001 ?", "what is the code of garden n002 ?"), ["it is v01 .", "it is v02 ."]
    )
    queries = Listed(prompts("what is the code of vault n001 ?", "what is", "n002 code the ? vault is of what cf"), [""] * 3)
    found = trivial_scores(queries, chat, clean)
    assert found["length"].tolist() == [8, 2, 9]
    differences = (found["tokens"] - found["tokens"][1]).tolist()
    assert differences == [6, 0, 7]  # a token a word in this world
    assert found["perplexity"].argmax() == 2 and found["perplexity"].argmin() == 0
