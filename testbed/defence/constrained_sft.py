"""Constrained fine-tuning: the first tokens of an answer may not move far from what the aligned model said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Invalid, Victim
from testbed.defence.wrapper import Reference, Wrapped, chat_model, chat_task, frozen, require_strength
from testbed.language import ChatVictim


@dataclass(frozen=True)
class ConstrainedSFT(Defence):
    """Minimises -(2 / b_t) log sigma(b_t log(p(y_t) / p*(y_t))) for token t of an answer, p* the aligned model.

    Its gradient is that of -w_t log p(y_t) with w_t = 2 (1 - sigma(b_t log(p / p*))) held constant, and that is what is
    trained on, as a mean over tokens: w is 1 at the start, 2 where a token has become far less likely, 0 where far more so.
    Where b_t -> 0, w_t -> 1. `schedule` are the b of the first tokens (published: .5, then 2 up to the fifth), `rest` that
    of all others (published: .1); zeros are plain fine-tuning. No weight falls below `floor` (0 is the formula as printed).

    Stage: fine-tuning. Access: gradients, a copy of the aligned model; one more forward pass a step.
    Source: Qi et al. 2024, arXiv 2406.05946.
    """

    schedule: Sequence[float]
    rest: float
    floor: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        for beta in self.schedule:
            require_strength(beta, "schedule")
        require_strength(self.rest, "rest")
        if not 0 <= self.floor < 1:
            raise Invalid("floor", self.floor, "must lie between 0 and 1, the latter excluded")

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        if not any((*self.schedule, self.rest)):
            return victim
        model = chat_model(victim)
        return Constrained(model, frozen(model), (*self.schedule, self.rest), self.floor)


class Constrained(Wrapped):
    """Weighs the loss of each token; `betas` are those of the first tokens, and last that of all others."""

    def __init__(self, victim: ChatVictim, reference: Reference, betas: tuple[float, ...], floor: float) -> None:
        super().__init__(victim)
        self.reference, self.betas, self.floor = reference, betas, floor

    def loss(self, batch: Batch) -> Tensor:
        tokens = self.tokens(batch)
        losses = self.victim.token_losses(tokens)
        with torch.no_grad():
            ratios = self.reference.on(self.device).token_losses(tokens) - losses
        return (weights(ratios, tokens.answer, self.betas, self.floor) * losses).sum() / tokens.answer.sum()


def weights(ratios: Tensor, answer: Tensor, betas: Sequence[float], floor: float) -> Tensor:
    """float (B, T): 2 (1 - sigma(b_t r_t)), `ratios` r = log(p / p*), t counted from the first token of the `answer`."""
    place = (answer.long().cumsum(1) - 1).clamp(0, len(betas) - 1)
    beta = torch.tensor(betas, dtype=ratios.dtype, device=ratios.device)[place]
    return (2 * (1 - torch.sigmoid(beta * ratios))).clamp(min=floor)
