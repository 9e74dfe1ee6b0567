"""Linear artificial tomography: the principal direction in which pairs of contrasting prompts differ."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from testbed.api import DefenderResources
from testbed.detector.probing import Probing
from testbed.identity import generator
from testbed.numerics.probe import Axis, reading_vector


@dataclass(frozen=True)
class Lat(Probing):
    """Score: centred projection on the first principal component of h+ - h-, over random pairs of the reserve at `layer`.

    Half of the differences are turned round before they are centred, and the labels of the pairs give the sign.

    Source: Zou et al. 2023 (Representation engineering), arXiv 2310.01405.
    """

    def axis(self, features: Tensor, inside: Tensor, resources: DefenderResources) -> Axis:
        return reading_vector(features, inside, draws=generator(resources.seed, "pairs"))
