"""The control that every filter must beat: it removes rows by lot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from testbed.api import Defence, DefenderResources, Examples, Invalid
from testbed.features import select


@dataclass(frozen=True)
class RandomFilter(Defence):
    """Removes round(fraction n) rows drawn at random (as the random filter of Armory)."""

    fraction: float

    def check(self, resources: DefenderResources) -> None:
        if not 0 < self.fraction < 1:
            raise Invalid("fraction", self.fraction, "must lie between 0 and 1, both excluded")

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        order = torch.randperm(len(received), generator=torch.Generator().manual_seed(resources.seed))
        return select(received, order[round(self.fraction * len(received)) :].sort().values)
