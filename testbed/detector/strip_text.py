"""STRIP for text: a text with a strong trigger keeps its answer, however many of its words come from elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from testbed.api import DefenderResources, Detector, Examples, Invalid, Victim
from testbed.detector.chance import chances
from testbed.detector.requirement import require_at_least, require_between, require_language, require_reserve
from testbed.detector.strip import upper_quantile
from testbed.features import batches, evaluating, progress
from testbed.identity import generator
from testbed.numerics.wording import asked, asking

QUERIES_AT_ONCE = 32


@dataclass(frozen=True)
class StripText(Detector):
    """Score `-(1/N) sum_i H(answer to copy i)`, H in bits, over N = `copies` copies of the query with words exchanged.

    A copy has the share `swap_ratio` of its words, at random places, replaced by the words with the highest TF-IDF of one
    clean text of the reserve; of a conversation, only what the user said last. The answer is a class, or whether a chat model
    refuses. The published rule rejects scores above the `1 - false_rejection_rate` quantile of a normal distribution fitted
    to the reserve's.

    A backdoor that makes a model answer what it should refuse cannot be told so from harmless queries, which are answered
    whatever their words. Sources: Gao et al. 2021 (IEEE TDSC), arXiv 1911.10312; TF-IDF and defaults: Cui et al. 2022,
    arXiv 2206.08514.
    """

    copies: int = 5
    swap_ratio: float = 0.5
    false_rejection_rate: float = 0.01

    judges: ClassVar[frozenset[str]] = frozenset({"queries"})

    def check(self, resources: DefenderResources) -> None:
        require_language(resources.task)
        require_reserve(resources, 2)
        require_at_least("copies", self.copies, 1)
        require_between("false_rejection_rate", self.false_rejection_rate, 0, 1)
        if not 0 < self.swap_ratio <= 1:
            raise Invalid("swap_ratio", self.swap_ratio, "must be above 0 and at most 1", "it is a share of the words")

    @torch.no_grad()
    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float32 (n,), minus the mean entropy in bits: from -log2(kinds of answers) to 0."""
        donors, scores = key_words(_texts(resources.reserve)), []
        with evaluating(victim):
            for batch in progress(batches(examples, QUERIES_AT_ONCE), "STRIP", -(-len(examples) // QUERIES_AT_ONCE)):
                copies = [copy for one in batch.inputs for copy in self.perturbed(one, donors, resources.seed)]
                scores.append(-mean_entropies(victim, copies, self.copies).cpu())
        return torch.cat(scores)

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """Scores above the quantile of the normal distribution fitted to the reserve's scores."""
        clean = self.score(resources.reserve, victim, resources)
        return scores > upper_quantile(clean, self.false_rejection_rate)

    def perturbed(self, one: Any, donors: Sequence[Sequence[str]], seed: int) -> list[Any]:
        """The copies of one query; what is random depends on the seed and on what it says."""
        text = asked(one)
        draws = generator(seed, f"copies of {text}")
        return [asking(one, exchanged(text, _one_of(donors, draws), self.swap_ratio, draws)) for _ in range(self.copies)]


def mean_entropies(victim: Victim, copies: Sequence[Any], each: int) -> Tensor:
    """float32 (B,): mean entropy in bits of the answers to B x `each` copies, those of one query next to one another."""
    entropies = torch.special.entr(chances(victim, copies)).sum(1) / math.log(2)
    return entropies.view(-1, each).mean(1)


def exchanged(text: str, donor: Sequence[str], share: float, draws: Generator) -> str:
    """The text with round(share words) words, one at least, replaced by the first ones of `donor`, as far as these reach."""
    words = text.split()
    count = min(max(1, round(share * len(words))), len(words), len(donor))
    places = torch.randperm(len(words), generator=draws)[:count].tolist()
    for place, word in zip(places, donor, strict=False):
        words[place] = word
    return " ".join(words)


def key_words(texts: Sequence[str]) -> list[list[str]]:
    """The different words of each text by falling TF-IDF, c(w) log(N / texts with w); ties in their order."""
    counts = [Counter(text.split()) for text in texts]
    among = Counter(word for each in counts for word in each)
    return [sorted(each, key=lambda word: -each[word] * math.log(len(texts) / among[word])) for each in counts]


def _texts(clean: Examples) -> list[str]:
    return [asked(one) for batch in batches(clean, 1024) for one in batch.inputs]


def _one_of(donors: Sequence[Sequence[str]], draws: Generator) -> Sequence[str]:
    return donors[int(torch.randint(len(donors), (1,), generator=draws))]
