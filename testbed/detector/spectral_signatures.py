"""Spectral signatures: poison of one label stands out along the direction in which the label's features vary most."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Victim
from testbed.detector.principal import principal_projections
from testbed.detector.requirement import require_between, require_labels
from testbed.features import read, require_layer

OVERSHOOT = 1.5


@dataclass(frozen=True)
class SpectralSignatures(Detector):
    """Score `(<h(x) - mean_y, v_y>)^2`, with v_y the top right singular vector of the centred features of given label y.

    The published rule removes the `1.5 eps n_y` highest scores of every label, with eps an upper bound on the poisoned share
    of a label that the defender knows beforehand. Here eps is `expected_poison_rate`, a declared assumption in (0, 2/3), never
    the true rate; every label loses that share, poisoned or not.

    Source: Tran, Li and Madry 2018 (NeurIPS, arXiv 1811.00636).
    """

    layer: str = "penultimate"
    expected_poison_rate: float = 0.1

    judges: ClassVar[frozenset[str]] = frozenset({"rows"})

    def check(self, resources: DefenderResources) -> None:
        require_labels(resources.task)
        require_between("expected_poison_rate", self.expected_poison_rate, 0, 1 / OVERSHOOT)
        require_layer(resources.fresh(), self.layer)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float64 (n,), 0 or more."""
        reading = read(victim, examples, self.layer)
        scores = torch.zeros(len(examples), dtype=torch.float64)
        for members in _by_label(reading.labels):
            scores[members] = principal_projections(reading.features[members], 1)[:, 0].square()
        return scores

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """The floor of `1.5 expected_poison_rate n_y` rows of each label y."""
        flagged = torch.zeros(len(examples), dtype=torch.bool)
        for members in _by_label(read(victim, examples, self.layer).labels):
            # 1.5 * 0.3 * 20 is 8.999... in floating point
            count = math.floor(OVERSHOOT * self.expected_poison_rate * len(members) + 1e-9)
            flagged[members[scores[members].argsort(descending=True, stable=True)[:count]]] = True
        return flagged


def _by_label(labels: Tensor) -> Iterator[Tensor]:
    """Rows of each label that occurs."""
    return (torch.nonzero(labels == label).flatten() for label in labels.unique())
