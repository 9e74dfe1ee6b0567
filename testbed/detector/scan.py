"""SCAn: a label whose features are of two pieces, where clean classes are of one, holds an attack's rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Victim
from testbed.detector.answering import require_rows_of_each_class
from testbed.detector.requirement import require_above, require_at_least, require_labels
from testbed.features import Reading, read, require_layer
from testbed.numerics.outliers import FEWEST, anomaly_index

NEGLIGIBLE = 1e-6
"""Directions in which clean features vary by less than this share of the largest variance are left out."""

RESTARTS = 10


class Components(NamedTuple):
    """The clean model x = c + e: `between` and `within` (d, d) are the covariances of c ~ N(centre, S_u) and e ~ N(0, S_e)."""

    centre: Tensor
    between: Tensor
    within: Tensor


class Split(NamedTuple):
    """A label cut in two: `gain` is what two means fit better than one, a row; `attack` (m,) the chance of the strange one."""

    members: Tensor
    gain: float
    attack: Tensor


@dataclass(frozen=True)
class Scan(Detector):
    """Score `max(J*_y, 0) p(x)`: how far label y is of two pieces, times the chance that the row is of the strange piece.

    The features of the clean reserve give S_u and S_e, the covariances between and within classes (`two_components`). The rows
    of a received label are cut in two by 2-means in the metric S_e^(-1), and J_y = (1/n_y) sum_x [|x - mu|^2 - |x - mu_x|^2] in
    that metric: the log likelihood ratio of two means against one, mu the mean that S_u and S_e make likely. J*_y =
    (J_y - median) / (1.4826 MAD) over the labels. Flagged are rows with p > 1/2 of labels with J* > `index_threshold`, which
    is e^2 in the paper and in one public toolbox, and e in another. With two classes J* is .674 and -.674 whatever is in them:
    there is no rule.

    Ours: the paper takes |J_y - median|, here labels that are more of one piece than others are not suspected; p(x) takes the
    pieces as equally frequent; the strange piece is the one whose mean is farther from the reserve's of that class, so that
    poison may be the majority. Of every direction in which clean features do not vary, nothing is known and nothing is used.

    Source: Tang, Wang, Tang and Zhang 2021 (USENIX Security, arXiv 1908.00686).
    """

    layer: str = "penultimate"
    index_threshold: float = math.exp(2)
    em_iterations: int = 100

    judges: ClassVar[frozenset[str]] = frozenset({"rows"})

    def check(self, resources: DefenderResources) -> None:
        require_labels(resources.task)
        require_above("index_threshold", self.index_threshold, 0)
        require_at_least("em_iterations", self.em_iterations, 1)
        require_layer(resources.fresh(), self.layer)
        require_rows_of_each_class(resources, 2)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), 0 or more: at most the anomaly index of the row's label."""
        splits, scores = self._splits(examples, victim, resources), torch.zeros(len(examples), dtype=torch.float64)
        for split, index in zip(splits, _indices(splits), strict=True):
            scores[split.members] = max(index, 0.0) * split.attack
        return scores

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor | None:
        """The strange piece of every label whose anomaly index is above `index_threshold`; None where there are two classes."""
        if len(resources.task.classes) < FEWEST:
            return None
        splits, flagged = self._splits(examples, victim, resources), torch.zeros(len(examples), dtype=torch.bool)
        for split, index in zip(splits, _indices(splits), strict=True):
            flagged[split.members] = (split.attack > 0.5) & (index > self.index_threshold)
        return flagged

    def _splits(self, examples: Examples, victim: Victim, resources: DefenderResources) -> list[Split]:
        clean, received = (read(victim, rows, self.layer) for rows in (resources.reserve, examples))
        parts = two_components(clean.features, clean.labels, iterations=self.em_iterations)
        root = inverse_root(parts.within)
        groups = [torch.nonzero(received.labels == label).flatten() for label in received.labels.unique()]
        return [
            _split(received, members, parts, root, clean_mean=_mean_of(clean, received.labels[members[0]]), seed=resources.seed)
            for members in groups
        ]


def two_components(features: Tensor, labels: Tensor, *, iterations: int) -> Components:
    """Covariances of x = c_class + e by expectation and maximisation, float64; exact, also for classes of unequal size.

    With x_y the mean and n the size of a class, c_y has mean S_u (S_u + S_e / n)^+ x_y and covariance S_u - S_u (...)^+ S_u;
    the next S_u is the mean of cc', the next S_e that of ee'. It begins with the moments. Source: Chen et al. 2012 (ECCV).
    """
    values = features.double()
    centre = values.mean(0)
    classes, places = labels.unique(return_inverse=True)
    counts = places.bincount().double()
    means = torch.zeros(len(classes), values.shape[1], dtype=torch.float64).index_add_(0, places, values - centre)
    means = means / counts[:, None]
    spread = values - centre - means[places]
    scatter = spread.T @ spread
    within, between = scatter / len(values), means.T @ means / len(classes)
    sizes = [(count, means[counts == count]) for count in counts.unique()]
    for _ in range(iterations):
        next_between, next_within = torch.zeros_like(between), scatter.clone()
        for count, seen in sizes:  # classes of one size share an inverse
            gain = between @ torch.linalg.pinv(between + within / count, hermitian=True)
            likely, doubt = seen @ gain.T, len(seen) * (between - gain @ between)
            next_between += likely.T @ likely + doubt
            next_within += count * ((seen - likely).T @ (seen - likely) + doubt)
        between, within = next_between / len(classes), next_within / len(values)
    return Components(centre, between, within)


def inverse_root(covariance: Tensor) -> Tensor:
    """(d, k): x @ root has the identity as its covariance, k the number of directions that vary."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > NEGLIGIBLE * values.max().clamp(min=1e-300)
    return vectors[:, kept] * values[kept].rsqrt()


def _split(received: Reading, members: Tensor, parts: Components, root: Tensor, *, clean_mean: Tensor, seed: int) -> Split:
    points = received.features[members].double() - parts.centre
    near = points @ root
    if not root.shape[1] or len(points) < 2 or bool((near == near[0]).all()):
        return Split(members, 0.0, torch.zeros(len(points), dtype=torch.float64))
    means = KMeans(n_clusters=2, n_init=RESTARTS, random_state=seed % 2**32).fit(near.numpy())
    centres, piece = torch.from_numpy(means.cluster_centers_), torch.from_numpy(means.labels_).long()
    gain = parts.between @ torch.linalg.pinv(parts.between + parts.within / len(points), hermitian=True)
    single = gain @ points.mean(0) @ root
    better = (near - single).square().sum(1) - (near - centres[piece]).square().sum(1)
    strange = int((centres - (clean_mean - parts.centre) @ root).square().sum(1).argmax())
    distances = (near[:, None] - centres).square().sum(2)
    return Split(members, float(better.mean()), ((distances[:, 1 - strange] - distances[:, strange]) / 2).sigmoid())


def _mean_of(clean: Reading, label: Tensor) -> Tensor:
    """The reserve's mean in a class; of all rows, for a label that no class of the reserve has."""
    chosen = clean.labels == label
    return clean.features[chosen if bool(chosen.any()) else slice(None)].double().mean(0)


def _indices(splits: list[Split]) -> list[float]:
    if not splits:
        return []
    return anomaly_index(torch.tensor([split.gain for split in splits], dtype=torch.float64), side="high").tolist()
