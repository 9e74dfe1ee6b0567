"""SPECTRE: once the clean part's covariance is estimated robustly and whitened away, poison stands out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Victim
from testbed.detector.principal import principal_projections
from testbed.detector.requirement import require_above, require_at_least, require_between, require_labels
from testbed.features import read, require_layer
from testbed.identity import generator
from testbed.numerics.robust_covariance import gaussian_of, quantum_entropy_scores, robust_gaussian, whitened

OVERSHOOT, FILTERED = 1.5, 2.0
"""How many times the expected number of poisons is removed, and may be left out when the covariance is estimated."""

ROWS_PER_COMPONENT = 10
"""Of fewer, a covariance says as much about the rows that it was estimated from as about the others."""

CLEAN_DRAWS = 5


class Class(NamedTuple):
    """Rows of one label: `members` int64 (m,), their QUE `scores` float64 (m,), and how far the label as a whole sticks out."""

    members: Tensor
    scores: Tensor
    excess: float


@dataclass(frozen=True)
class Spectre(Detector):
    """Score `y' Q y / Tr Q`, y = S^(-1/2) (U_k' h(x) - mean), Q = exp(alpha (C - I) / (|C|_2 - 1)), C the covariance of y.

    For each given label, U_k are the top k singular vectors of its features, mean is that of all its rows (as in the authors'
    code: the robust one shifts every y alike), S comes from a filter that leaves out at most `2 eps n_y` rows, and alpha is
    `que_strength`. k is chosen among the squares 1, 4, 9 ... up to `components`: the one for which the label sticks out most,
    by the mean score of all its rows once `1.5 eps n_y` of them are removed and the others whiten all. The rule removes the
    `1.5 eps n_y` highest scores of the one label that sticks out most.

    eps is `expected_poison_rate`, a declared upper bound on the poisoned share of a label in (0, 1/2), where the authors use
    the true number of poisons and, in their code, the true label. That the label is chosen by the same mean is the paper's as
    we remember it. Ours: the mean is divided by that of clean Gaussian rows, as many and with the same variances, for the
    same k, as rows that did not enter S have higher scores by that alone, above all in small labels; a label has
    `ROWS_PER_COMPONENT` rows or more for each component; and a simpler filter (`robust_gaussian`). Labels with fewer than 4
    rows score 0.

    Source: Hayase, Kong, Somani and Oh 2021 (ICML, arXiv 2104.11315).
    """

    layer: str = "penultimate"
    expected_poison_rate: float = 0.1
    components: int = 100
    que_strength: float = 4.0
    filter_rounds: int = 10

    judges: ClassVar[frozenset[str]] = frozenset({"rows"})

    def check(self, resources: DefenderResources) -> None:
        require_labels(resources.task)
        require_between("expected_poison_rate", self.expected_poison_rate, 0, 1 / FILTERED)
        require_at_least("components", self.components, 1)
        require_above("que_strength", self.que_strength, 0)
        require_at_least("filter_rounds", self.filter_rounds, 1)
        require_layer(resources.fresh(), self.layer)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), 0 or more; about 1 on average over the rows that fit their label."""
        scores = torch.zeros(len(examples), dtype=torch.float64)
        for group in self._classes(examples, victim, resources.seed):
            scores[group.members] = group.scores
        return scores

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """The floor of `1.5 expected_poison_rate n_y` rows of the label y that sticks out most."""
        flagged = torch.zeros(len(examples), dtype=torch.bool)
        classes = self._classes(examples, victim, resources.seed)
        if classes:
            suspect = max(classes, key=lambda group: group.excess)
            flagged[suspect.members[self._highest(suspect.scores)]] = True
        return flagged

    def _classes(self, examples: Examples, victim: Victim, seed: int) -> list[Class]:
        reading = read(victim, examples, self.layer)
        groups = [torch.nonzero(reading.labels == label).flatten() for label in reading.labels.unique()]
        return [self._judged(reading.features[members], members, seed) for members in groups if len(members) >= 4]

    def _judged(self, features: Tensor, members: Tensor, seed: int) -> Class:
        points = principal_projections(features, max(1, min(self.components, len(members) // ROWS_PER_COMPONENT)))
        sizes = squares(points.shape[1])
        found, usual = [self._tried(points, k) for k in sizes], self._of_clean_rows(points, sizes, seed)
        ratios = [excess / max(clean, 1e-9) for (_, excess), clean in zip(found, usual, strict=True)]
        best = max(range(len(sizes)), key=ratios.__getitem__)
        return Class(members, found[best][0], ratios[best])

    def _of_clean_rows(self, points: Tensor, sizes: Sequence[int], seed: int) -> list[float]:
        """For each k the mean excess of Gaussian rows with the variances of `points` (m, d)."""
        draw, deviations = generator(seed, "clean rows beside a label"), points.std(0, correction=0)
        totals = torch.zeros(len(sizes), dtype=torch.float64)
        for _ in range(CLEAN_DRAWS):
            rows = deviations * torch.randn(points.shape, generator=draw, dtype=torch.float64)
            clean = principal_projections(rows, points.shape[1])
            totals += torch.tensor([self._tried(clean, k)[1] for k in sizes], dtype=torch.float64)
        return (totals / CLEAN_DRAWS).tolist()

    def _tried(self, points: Tensor, k: int) -> tuple[Tensor, float]:
        """QUE scores (m,) in k components, and the mean QUE score of all components once the highest k-scores are left out."""
        most = math.floor(FILTERED * self.expected_poison_rate * len(points) + 1e-9)
        chosen = points[:, :k]
        clean = robust_gaussian(chosen, most=most, rounds=self.filter_rounds)
        scores, _ = quantum_entropy_scores(whitened(chosen, clean), self.que_strength)
        rest = torch.ones(len(points), dtype=torch.bool)
        rest[self._highest(scores)] = False
        return scores, quantum_entropy_scores(whitened(points, gaussian_of(points, rest)), self.que_strength)[1]

    def _highest(self, scores: Tensor) -> Tensor:
        count = math.floor(OVERSHOOT * self.expected_poison_rate * len(scores) + 1e-9)
        return scores.argsort(descending=True, stable=True)[:count]


def squares(largest: int) -> list[int]:
    """1, 4, 9 ... up to `largest`, which is the last of them: the authors try ten between 1 and 100."""
    found = [root * root for root in range(1, math.isqrt(largest) + 1)]
    return found if found[-1] == largest else [*found, largest]
