"""Deep k-NN: a row whose neighbours among the features mostly have another label does not belong where it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from testbed.api import DefenderResources, Detector, Examples, Invalid, Victim
from testbed.detector.requirement import require_above, require_labels
from testbed.features import Reading, progress, read, require_layer

METRICS = ("euclidean", "cosine")
NUMBERS = 2**24
"""Distances that are held at once."""


@dataclass(frozen=True)
class DeepKnn(Detector):
    """Score: the share of the k nearest other rows, by the features of a layer, that have another label.

    k = `neighbours_per_class` times the number of rows of the row's own label, and at least 1. Flagged are rows whose own label
    is not the commonest among the k; where several are, and the own one is among them, the row stays. The paper relates k to
    the size of a class, finds values of about once or twice as many right, and has advice for classes of unequal size (from
    memory; we have not seen which). That each row has its own k is ours: with one k for all, every row of a label with fewer
    than half as many rows would be flagged. Distances are Euclidean.

    Source: Peri et al. 2020 (ECCV workshops, arXiv 1909.13374), against clean-label feature collisions.
    """

    layer: str = "penultimate"
    neighbours_per_class: float = 1.0
    metric: str = "euclidean"

    judges: ClassVar[frozenset[str]] = frozenset({"rows"})

    def check(self, resources: DefenderResources) -> None:
        require_labels(resources.task)
        require_above("neighbours_per_class", self.neighbours_per_class, 0)
        if self.metric not in METRICS:
            raise Invalid("metric", self.metric, f"there are {' and '.join(METRICS)}", "choose one of them")
        require_layer(resources.fresh(), self.layer)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), in 0..1."""
        reading = read(victim, examples, self.layer)
        votes = self._votes(reading, victim.device)
        own = votes[torch.arange(len(votes)), reading.labels]
        return 1 - own.double() / votes.sum(1).clamp(min=1)

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """Rows whose label is not the plurality's."""
        reading = read(victim, examples, self.layer)
        votes = self._votes(reading, victim.device)
        return votes[torch.arange(len(votes)), reading.labels] < votes.amax(1)

    def _votes(self, reading: Reading, device: torch.device) -> Tensor:
        """int64 (n, K): how many of the nearest rows have each label."""
        count, labels = len(reading.labels), reading.labels
        wanted = (self.neighbours_per_class * labels.bincount()[labels].double()).round().long().clamp(1, count - 1)
        points = reading.features.to(device)
        points = functional.normalize(points, dim=1) if self.metric == "cosine" else points
        votes = torch.zeros(count, int(labels.max()) + 1, dtype=torch.int64)
        parts = torch.arange(count).split(max(1, NUMBERS // count))
        for rows in progress(parts, "neighbours", len(parts)):
            distances = torch.cdist(points[rows.to(device)], points)
            distances[torch.arange(len(rows)), rows] = torch.inf  # nobody is a neighbour of himself
            own, most = wanted[rows], int(wanted[rows].max())
            nearest = labels[distances.topk(most, largest=False).indices.cpu()]
            counted = (torch.arange(most) < own[:, None]).long()
            votes[rows] = torch.zeros(len(rows), votes.shape[1], dtype=torch.int64).scatter_add_(1, nearest, counted)
        return votes
