"""Activation clustering: the features of a poisoned label fall into a large clean cluster and a small poisoned one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Victim
from testbed.detector.principal import principal_projections
from testbed.detector.requirement import require_at_least, require_between, require_labels
from testbed.features import read, require_layer

RESTARTS = 10


@dataclass(frozen=True)
class ActivationClustering(Detector):
    """Score `1 - size of the own cluster / size of the label`, in [0, 1): rows of the smaller of two clusters score higher.

    The features of each given label are projected on their `components` principal components (the paper used independent
    components, which are the same ones whitened and rotated; a layer with fewer features keeps all of them), and cut in two by
    k-means. Flagged are clusters smaller than the share `size_threshold` of their label (the paper's relative size rule).
    Labels with no more rows than `components`, or whose features do not vary, score 0 and are never flagged.

    Source: Chen et al. 2018 (SafeAI 2019, arXiv 1811.03728).
    """

    layer: str = "penultimate"
    components: int = 10
    size_threshold: float = 0.35

    judges: ClassVar[frozenset[str]] = frozenset({"rows"})

    def check(self, resources: DefenderResources) -> None:
        require_labels(resources.task)
        require_at_least("components", self.components, 1)
        require_between("size_threshold", self.size_threshold, 0, 1)
        require_layer(resources.fresh(), self.layer)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,) in [0, 1)."""
        reading = read(victim, examples, self.layer)
        scores = torch.zeros(len(examples), dtype=torch.float64)
        for label in reading.labels.unique():
            members = torch.nonzero(reading.labels == label).flatten()
            if len(members) > self.components:
                points = principal_projections(reading.features[members], self.components)
                scores[members] = 1 - _own_share(points, resources.seed)
        return scores

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """The clusters whose share of their label is below `size_threshold`."""
        # a share of exactly the threshold stays, whatever subtracting it from 1 in float32 made of it
        return (1 - scores) < self.size_threshold - 1e-6


def _own_share(points: Tensor, seed: int) -> Tensor:
    """float64 (n,): the share of the points that lie in the same one of two clusters; 1 where all points are equal."""
    if bool((points == points[0]).all()):
        return torch.ones(len(points), dtype=torch.float64)
    means = KMeans(n_clusters=2, n_init=RESTARTS, random_state=seed % 2**32)
    clusters = torch.from_numpy(means.fit_predict(points.numpy())).long()
    return clusters.bincount(minlength=2)[clusters].double() / len(points)
