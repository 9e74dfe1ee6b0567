"""Training control for attackers who stamp their rows after augmentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from testbed.api import Batch, Trigger, Unsupported, Victim


class StampedTraining(Victim):
    """A victim whose loss stamps the attacker's rows once they are augmented; in all else the victim itself.

    `positions` int64 (n,) are those rows among the ones trained on.

    Raises:
        Unsupported: the victim does not show its augmented inputs.
    """

    def __init__(self, victim: Victim, trigger: Trigger, positions: Tensor, seed: int) -> None:
        super().__init__()
        if not hasattr(victim, "augmented") or not hasattr(victim, "loss_of"):
            raise Unsupported(
                "stamping after augmentation needs a victim with `augmented` and `loss_of`, as image victims have"
            )
        self.victim, self.trigger, self.positions, self.seed = victim, trigger, positions, seed

    def loss(self, batch: Batch) -> Tensor:
        inputs = self.victim.augmented(batch.inputs)  # type: ignore[operator]
        mine = torch.isin(batch.rows, self.positions.to(batch.rows.device))
        if mine.any():
            inputs[mine] = self.trigger(inputs[mine], batch.rows[mine], self.seed)
        return self.victim.loss_of(inputs, batch.labels)  # type: ignore[operator]

    def bare(self) -> Victim:
        return self.victim.bare()

    def forward(self, inputs: Any) -> Tensor:
        return self.victim(inputs)

    @property
    def layers(self) -> tuple[str, ...]:
        return self.victim.layers

    def features(self, inputs: Any, layer: str) -> Tensor:
        return self.victim.features(inputs, layer)
