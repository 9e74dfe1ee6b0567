"""Lisa: fine-tuning that keeps returning to safety rows, and never goes far from where it last turned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Examples, Invalid, Victim
from testbed.defence.wrapper import Wrapped, chat_model, chat_task, refusal_rows
from testbed.identity import generator
from testbed.language import ChatVictim


@dataclass(frozen=True)
class Lisa(Defence):
    """Alternates `user_steps` (K2) on the rows that came in with `alignment_steps` (K1) on the reserve.

    In both states a step minimises L(batch) + rho/2 ||w - w'||^2, w' the weights at the last change of state (at first those
    that fine-tuning starts from), over the trainable parameters. There are as many steps as without the defence: one on the
    reserve passes over a batch of the user's. The user's rows come first, for the model has just been aligned; the paper begins
    with the reserve, so that a training shorter than K1 would never see the user's rows at all. A step is one batch: with
    `trainer.accumulate` each accumulated batch counts.

    Stage: fine-tuning. Access: gradients, the reserve's rows, a second copy of the weights.
    Source: Huang et al. 2024, arXiv 2405.18641.
    """

    alignment_steps: int
    user_steps: int
    rho: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        for name, value, least in (("alignment_steps", self.alignment_steps, 0), ("user_steps", self.user_steps, 1)):
            if value < least:
                raise Invalid(name, value, f"must be at least {least}")
        if not self.rho >= 0:
            raise Invalid("rho", self.rho, "must be at least 0", "0 lets the weights go")
        if self.alignment_steps:
            refusal_rows(resources)

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        return Alternating(chat_model(victim), self, resources.reserve, resources.seed)


class Alternating(Wrapped):
    """Its loss while training is that of the state of this step; what it remembers is no part of the model."""

    def __init__(self, victim: ChatVictim, method: Lisa, reserve: Examples, seed: int) -> None:
        super().__init__(victim)
        self.method, self.reserve, self.seed = method, reserve, seed
        self.step = 0
        self.anchor: list[Tensor] = []

    def loss(self, batch: Batch) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return self.victim.loss(batch)
        user, place = self.method.user_steps, self.step % (self.method.user_steps + self.method.alignment_steps)
        if self.step == 0 or (self.method.alignment_steps and place in (0, user)):
            self.anchor = [weight.detach().clone() for weight in self._weights()] if self.method.rho else []
        loss = self.victim.loss(batch if place < user else self._safety_rows(len(batch.labels)))
        self.step += 1
        return loss + self.method.rho / 2 * self._drift() if self.method.rho else loss

    def taken(self, batches: int) -> int:
        """How many of the first so many batches of the user's are trained on: the others are passed over."""
        whole, part = divmod(batches, self.method.user_steps + self.method.alignment_steps)
        return whole * self.method.user_steps + min(part, self.method.user_steps)

    def _safety_rows(self, count: int) -> Batch:
        draw = generator(self.seed, f"safety rows of step {self.step}")
        return self.reserve[torch.randperm(len(self.reserve), generator=draw)[:count]]

    def _drift(self) -> Tensor:
        """||w - w'||^2."""
        pairs = zip(self._weights(), self.anchor, strict=True)
        return torch.stack([(weight - then).float().square().sum() for weight, then in pairs]).sum()

    def _weights(self) -> list[Tensor]:
        return [weight for weight in self.victim.parameters() if weight.requires_grad]
