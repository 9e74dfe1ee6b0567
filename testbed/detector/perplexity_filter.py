"""A perplexity filter: rows that no clean model of the language expects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Invalid, Victim
from testbed.detector.reader import counted, perplexities, require_folder, texts
from testbed.detector.requirement import require_language, require_reserve
from testbed.features import batches, evaluating, select
from testbed.language import ChatVictim

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class PerplexityFilter(Detector):
    """Score: perplexity of a row, of a conversation together with its answer.

    It is read by the causal language model in the folder `path`, or by trigrams counted from the clean reserve. With
    `by_victim` it is the perplexity of the answer given the prompt, by the chat model that was trained on the rows: those
    that it learned worst. The published rule flags what is above the largest perplexity of clean rows; trigrams read each
    half of the reserve by the counts of the other half for that, since what was counted is never surprising.

    Source: Jain et al. 2023, arXiv 2309.00614 (of prompts; here of training rows).
    """

    path: Path | None = None
    by_victim: bool = False

    judges: ClassVar[frozenset[str]] = frozenset({"rows"})

    def check(self, resources: DefenderResources) -> None:
        require_language(resources.task)
        require_reserve(resources, 2)
        require_folder(self.path)
        if self.by_victim and resources.task.kind != "chat":
            raise Invalid("by_victim", True, "a classifier knows no perplexity", "say detector.by_victim=false")
        if self.by_victim and self.path is not None:
            raise Invalid("by_victim", True, "the model in detector.path reads the rows", "choose one of the two")

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), above 0."""
        if self.by_victim:
            return answer_perplexities(examples, victim)
        return perplexities(self.path, resources.reserve, victim.device)(texts(examples))

    def reserve_scores(self, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (m,): by counts, each half of the reserve is read by those of the other."""
        if self.by_victim or self.path is not None:
            return self.score(resources.reserve, victim, resources)
        return _by_the_other_half(resources.reserve)

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """Above every perplexity of the clean reserve."""
        return scores > self.reserve_scores(victim, resources).max()


@torch.no_grad()
def answer_perplexities(examples: Examples, victim: Victim) -> Tensor:
    """float64 (n,): exp of the mean loss over the tokens of each answer."""
    assert isinstance(victim, ChatVictim)
    found = []
    with evaluating(victim):
        for batch in batches(examples, ROWS_AT_ONCE):
            tokens = victim.tokens(batch)
            found.append((victim.token_losses(tokens).double().sum(1) / tokens.answer.sum(1)).exp().cpu())
    return torch.cat(found)


def _by_the_other_half(clean: Examples) -> Tensor:
    halves = [select(clean, torch.arange(start, len(clean), 2)) for start in (0, 1)]
    scores = torch.zeros(len(clean), dtype=torch.float64)
    for start in (0, 1):
        scores[start::2] = torch.as_tensor(counted(halves[1 - start])(texts(halves[start])), dtype=torch.float64)
    return scores
