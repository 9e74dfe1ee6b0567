"""Fine-tuning on the clean reserve: the cheapest repair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Invalid, Victim


@dataclass(frozen=True)
class FineTuning(Defence):
    """Trains the victim on the clean reserve for some more epochs, by the trainer's schedule and batch size.

    Source: as a baseline in Liu et al. 2018 (RAID, arXiv 1805.12185); 100 epochs at 0.01 as in Wu et al. 2022 (BackdoorBench).
    """

    epochs: int
    optimiser: Callable[..., torch.optim.Optimizer]

    def check(self, resources: DefenderResources) -> None:
        if self.epochs < 1:
            raise Invalid("epochs", self.epochs, "must be at least 1")
        require_reserve(resources)

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        return resources.fit(victim, resources.reserve, epochs=self.epochs, optimiser=self.optimiser)

    def objective(self, victim: Victim, batch: Batch) -> Tensor:
        """The victim's own training loss."""
        return victim.loss(batch)


def require_reserve(resources: DefenderResources) -> None:
    """Raises `Invalid` where the defender has no clean rows to work with."""
    if len(resources.reserve) < 2:
        raise Invalid(
            "reserve_per_class", len(resources.reserve), "this defence needs clean rows", "raise it", component="data"
        )
