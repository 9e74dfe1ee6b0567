"""Training control for attackers who stamp their rows after augmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from testbed.api import Batch, Trigger, Unsupported, Victim, Wrapper


class StampedTraining(Wrapper):
    """A victim whose loss stamps the attacker's rows once they are augmented; in all else the victim itself.

    `positions` int64 (n,) are those rows among the ones trained on.

    Raises:
        Unsupported: the victim does not show its augmented inputs.
    """

    def __init__(self, victim: Victim, trigger: Trigger, positions: Tensor, seed: int) -> None:
        super().__init__(victim)
        if not hasattr(victim, "augmented") or not hasattr(victim, "loss_of"):
            raise Unsupported(
                "stamping after augmentation needs a victim with `augmented` and `loss_of`, as image victims have"
            )
        self.trigger, self.positions, self.seed = trigger, positions, seed

    def loss(self, batch: Batch) -> Tensor:
        inputs = self.victim.augmented(batch.inputs)  # type: ignore[operator]
        mine = torch.isin(batch.rows, self.positions.to(batch.rows.device))
        if mine.any():
            inputs[mine] = self.trigger(inputs[mine], batch.rows[mine], self.seed)
        return self.victim.loss_of(inputs, batch.labels)  # type: ignore[operator]

    def bare(self) -> Victim:
        return self.victim.bare()
