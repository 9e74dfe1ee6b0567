"""Beatrix: the activations of an image with a trigger are correlated otherwise than those of its class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from testbed.api import DefenderResources, Detector, Examples, Invalid, Unsupported, Victim
from testbed.detector.answering import logits_of, require_rows_of_each_class
from testbed.detector.requirement import require_above, require_at_least, require_between, require_images
from testbed.features import all_labels, batches, evaluating, on_device, progress, read, require_layer, select
from testbed.numerics.outliers import FEWEST, anomaly_index

SMALLEST = 1e-6
"""Added to the ends of a band before dividing by them, with activations in units of the reserve's largest."""

BATCH = 32
FOLDS = 5
MOST = 1000
"""Rows of a class that the test of two samples looks at: its cost is their square."""


class Band(NamedTuple):
    """What clean Gram matrices of one class are like: `low` and `high` float32 (orders, entries)."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Beatrix(Detector):
    """Score: the mean over orders p and entries g of `relu(low - g) / |low| + relu(g - high) / |high|`: 0 inside the band.

    The Gram matrices of an image, of which the upper triangles count, are `G_p = (F^p (F^p)^T)^(1/p)` (powers by entry, signs
    kept), F (channels, places) the activations of a layer. low and high are the median -+ `band` times the median absolute
    deviation of each entry over the reserve's first `clean_images_per_class` images of the class that the model answers.

    The rule: conspicuous are rows whose score exceeds the `clean_quantile` of the reserve's images of their class, each judged
    by a band that five-fold cross-validation made without it. A class is suspected if J* = (J - median) / (1.4826 MAD) >
    `index_threshold` (e^2), J the kernel two-sample statistic between its conspicuous rows and the others, by the activations
    averaged over places. Flagged are the conspicuous rows of suspected classes. No class is suspected where more than half of
    all J are 0, as a lone other value would be an outlier whatever its size; with two classes there is no rule, as J* is .674
    and -.674 whatever is in them.

    As in the authors' code, `layer` None is the one before the last stage, the kernel the sum of two Gaussians of half the
    median squared distance and of all of it, and J is (m n / (m + n)) MMD^2. Ours: J* counts upwards only, the reserve's images
    are among the others (of a target class all queries may be conspicuous), activations are in units of the reserve's largest,
    and at most 1,000 rows of either kind enter J.

    Source: Ma, Wang, Sun, Xue and Xiang 2023 (NDSS, arXiv 2209.11715).
    """

    layer: str | None = None
    orders: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8)
    band: float = 10.0
    clean_quantile: float = 0.95
    index_threshold: float = math.exp(2)
    clean_images_per_class: int = 30

    judges: ClassVar[frozenset[str]] = frozenset({"rows", "queries"})

    def check(self, resources: DefenderResources) -> None:
        task, victim = require_images(resources.task), resources.fresh()
        if not self.orders or min(self.orders) < 1 or max(self.orders) > 16:
            raise Invalid("orders", list(self.orders), "one order or more, each from 1 to 16", "the paper's are 1 to 8")
        require_above("band", self.band, 0)
        require_between("clean_quantile", self.clean_quantile, 0, 1)
        require_above("index_threshold", self.index_threshold, 0)
        require_at_least("clean_images_per_class", self.clean_images_per_class, FOLDS)
        require_rows_of_each_class(resources, FOLDS)
        if self.layer is not None:
            require_layer(victim, self.layer)
        read_and_last = {self._layer(victim), *(victim.layers[-2:-1] if self.layer is None else ())}
        blank = torch.zeros(1, *task.shape, device=victim.device)
        with torch.no_grad(), evaluating(victim):
            maps = [layer for layer in victim.layers if victim.features(blank, layer).ndim == 4]
        if self.layer is not None and maps and self.layer not in maps:
            raise Invalid(
                "layer", self.layer, "has no places, of which correlations are made", f"choose one of {', '.join(maps)}"
            )
        if not read_and_last <= set(maps):
            raise Unsupported("needs a convolutional model, whose layers are maps (channels, height, width)")

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), 0 or more."""
        answers = logits_of(victim, examples).argmax(1)
        unit, scores = self._unit(victim, resources), torch.zeros(len(examples), dtype=torch.float64)
        for answer in answers.unique():
            band = self._band(self._grams(victim, resources.reserve, self._clean(resources, answer), unit))
            rows = (answers == answer).nonzero().flatten()
            for part in progress(rows.split(BATCH), f"Beatrix, class {int(answer)}", -(-len(rows) // BATCH)):
                scores[part] = deviations(self._grams(victim, examples, part, unit), band).cpu()
        return scores

    def reserve_scores(self, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (m,): images that a band is made of are judged by one that five-fold cross-validation made without them."""
        scores = self.score(resources.reserve, victim, resources)
        answers, unit = logits_of(victim, resources.reserve).argmax(1), self._unit(victim, resources)
        for answer in answers.unique():
            own = self._clean(resources, answer)
            apart = self._apart(self._grams(victim, resources.reserve, own, unit)).cpu()
            scores[own] = torch.where(answers[own] == answer, apart, scores[own])
        return scores

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor | None:
        """The conspicuous rows of the suspected classes; None where there are two classes."""
        if len(resources.task.classes) < FEWEST:
            return None
        answers, flagged = logits_of(victim, examples).argmax(1), torch.zeros(len(examples), dtype=torch.bool)
        groups, differences = [], []
        for answer in answers.unique():
            rows, own = (answers == answer).nonzero().flatten(), self._clean(resources, answer)
            unit = self._unit(victim, resources)
            strange = scores[rows] > self._clean_limit(self._grams(victim, resources.reserve, own, unit))
            usual = torch.cat([self._pooled(victim, resources.reserve, own), self._pooled(victim, examples, rows[~strange])])
            groups.append(rows[strange])
            differences.append(two_sample_statistic(usual[:MOST], self._pooled(victim, examples, rows[strange])[:MOST]))
        for group, index in zip(groups, _indices(differences), strict=True):
            flagged[group] = index > self.index_threshold
        return flagged

    def _layer(self, victim: Victim) -> str:
        if self.layer is not None:
            return self.layer
        return victim.layers[-3] if len(victim.layers) > 2 else victim.layers[0]

    def _clean(self, resources: DefenderResources, answer: Tensor) -> Tensor:
        """The reserve's images of a class that are looked at."""
        return (all_labels(resources.reserve) == answer).nonzero().flatten()[: self.clean_images_per_class]

    def _unit(self, victim: Victim, resources: DefenderResources) -> float:
        return float(read(victim, resources.reserve, self._layer(victim)).features.abs().max().clamp(min=SMALLEST))

    @torch.no_grad()
    def _maps(self, victim: Victim, examples: Examples, rows: Tensor) -> Tensor:
        with evaluating(victim):
            parts = [
                victim.features(on_device(batch.inputs, victim.device), self._layer(victim)).float()
                for batch in batches(select(examples, rows), 256)
            ]
        return torch.cat(parts)

    def _pooled(self, victim: Victim, examples: Examples, rows: Tensor) -> Tensor:
        """float32 (n, channels): activations, averaged over the places."""
        parts = [self._maps(victim, examples, part).mean((2, 3)) for part in rows.split(256)]
        return torch.cat(parts).cpu() if parts else torch.zeros(0)

    def _grams(self, victim: Victim, examples: Examples, rows: Tensor, unit: float) -> Tensor:
        return gram_matrices(self._maps(victim, examples, rows).flatten(2) / unit, self.orders)

    def _band(self, grams: Tensor) -> Band:
        middle = grams.median(0).values
        spread = (grams - middle).abs().median(0).values
        return Band(middle - self.band * spread, middle + self.band * spread)

    def _clean_limit(self, grams: Tensor) -> float:
        return float(self._apart(grams).quantile(self.clean_quantile))

    def _apart(self, grams: Tensor) -> Tensor:
        """float64 (n,): the deviations of clean images, each judged by a band of the other folds."""
        fold = torch.arange(len(grams), device=grams.device) % FOLDS
        found = torch.zeros(len(grams), dtype=torch.float64, device=grams.device)
        for number in fold.unique():
            found[fold == number] = deviations(grams[fold == number], self._band(grams[fold != number]))
        return found


def _indices(differences: list[float]) -> list[float]:
    """J* of each class; 0 for all where more than half of them are 0, and their median absolute deviation with them."""
    values = torch.tensor(differences, dtype=torch.float64)
    if 2 * int(values.count_nonzero()) < len(values):
        return [0.0] * len(values)
    return anomaly_index(values, side="high").tolist() if differences else []


def gram_matrices(maps: Tensor, orders: Sequence[int]) -> Tensor:
    """float32 (B, orders, entries): the upper triangles, diagonal included, of G_p for activations (B, channels, places)."""
    upper = torch.triu_indices(maps.shape[1], maps.shape[1], device=maps.device)
    found = []
    for order in orders:
        powers = maps**order
        entries = (powers @ powers.transpose(1, 2))[:, upper[0], upper[1]]
        found.append(entries.sign() * entries.abs() ** (1 / order))
    return torch.stack(found, 1)


def deviations(grams: Tensor, band: Band) -> Tensor:
    """float64 (B,): how far the entries lie outside their band, as a share of the end that they passed; the mean over all."""
    below = functional.relu(band.low - grams) / (band.low.abs() + SMALLEST)
    above = functional.relu(grams - band.high) / (band.high.abs() + SMALLEST)
    return (below + above).double().mean((1, 2))


def two_sample_statistic(one: Tensor, other: Tensor) -> float:
    """(m n / (m + n)) MMD^2 of samples (m, d) and (n, d), with k(x, y) = exp(-2 d^2 / M) + exp(-d^2 / M), M the median d^2.

    0 where one of them is empty.
    """
    if not len(one) or not len(other):
        return 0.0
    both = torch.cat([one, other]).double()
    squares = torch.cdist(both, both).square()
    middle = squares.median().clamp(min=SMALLEST)
    kernel = (-2 * squares / middle).exp() + (-squares / middle).exp()
    m, n = len(one), len(other)
    difference = kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean()
    return float(m * n / (m + n) * difference)
