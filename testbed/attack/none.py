"""No attack: the clean arm of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from testbed.api import Attack, AttackerResources, Examples, Poison


@dataclass(frozen=True)
class NoAttack(Attack):
    """Replaces nothing; takes the usual parameters, so that sweeps may cross it with them, and ignores them."""

    poison_rate: Annotated[float, "give a share of the rows, between 0 and 1"] = 0.0
    target_label: int = 0

    meaningless = ("poison_rate", "target_label")

    def poison(self, resources: AttackerResources) -> Poison:
        nothing = torch.arange(0)
        return Poison(nothing, resources.train[nothing])

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        return {}
