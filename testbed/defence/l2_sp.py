"""L2-SP: fine-tuning that pays for every step away from its starting point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Victim
from testbed.defence.wrapper import Wrapped, chat_model, chat_task, require_strength
from testbed.language import ChatVictim


@dataclass(frozen=True)
class L2SP(Defence):
    """Minimises L + strength/2 ||w - w*||^2, w* the weights that fine-tuning starts from: in `degrade` the aligned model's.

    Over the trainable weights, without the paper's second term, which decays a new head that there is not here. With adapters
    it is they that are held where they started. Strength 0 is plain fine-tuning.

    Stage: fine-tuning. Access: gradients, a copy of the aligned weights.
    Source: Li et al. 2018, arXiv 1802.01483.
    """

    strength: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        require_strength(self.strength)

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        if self.strength == 0:
            return victim
        model = chat_model(victim)
        return Anchored(model, self.strength, {name: weight.detach().clone() for name, weight in trainable(model).items()})


class Anchored(Wrapped):
    """L + strength/2 sum_i F_i (w_i - w*_i)^2: `anchor` are the w*, `importance` the F (1 where None), by parameter."""

    def __init__(
        self,
        victim: ChatVictim,
        strength: float,
        anchor: Mapping[str, Tensor],
        importance: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(victim)
        self.strength, self.anchor, self.importance = strength, anchor, importance

    def loss(self, batch: Batch) -> Tensor:
        loss = self.victim.loss(batch)
        return loss + self.strength / 2 * self.drift() if self.strength else loss

    def drift(self) -> Tensor:
        """sum_i F_i (w_i - w*_i)^2, a float32 scalar."""
        self.anchor = _near(self.anchor, self.device)
        self.importance = None if self.importance is None else _near(self.importance, self.device)
        weights = dict(self.victim.named_parameters())
        parts = []
        for name, start in self.anchor.items():
            squared = (weights[name].float() - start.float()).square()
            parts.append((squared if self.importance is None else self.importance[name] * squared).sum())
        return torch.stack(parts).sum()


def trainable(victim: ChatVictim) -> dict[str, Tensor]:
    """The parameters that have a gradient, by name."""
    return {name: weight for name, weight in victim.named_parameters() if weight.requires_grad}


def _near(kept: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in kept.items()}
