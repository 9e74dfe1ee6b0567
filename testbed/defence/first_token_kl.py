"""First-token KL: fine-tuning that may not change how a reply begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Victim
from testbed.defence.wrapper import Reference, Wrapped, chat_model, chat_task, frozen, require_strength
from testbed.language import ChatVictim


@dataclass(frozen=True)
class FirstTokenKL(Defence):
    """Minimises L + strength KL(p*(. | prompt) || p(. | prompt)) at the first token of the reply, mean over the rows.

    p* is the model that fine-tuning starts from, in `degrade` the aligned one. Strength 0 is plain fine-tuning. A model so held
    cannot learn a new way to begin either: look at its trainability.

    Stage: fine-tuning. Access: gradients, a copy of the aligned model; two more forward passes over the prompts a step.
    Source: ours, after the finding of Qi et al. 2024 (arXiv 2406.05946) that alignment lies in the first tokens.
    """

    strength: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        require_strength(self.strength)

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        if self.strength == 0:
            return victim
        model = chat_model(victim)
        return Tethered(model, frozen(model), self.strength)


class Tethered(Wrapped):
    """Adds to the loss how far the first token's distribution is from the reference's."""

    def __init__(self, victim: ChatVictim, reference: Reference, strength: float) -> None:
        super().__init__(victim)
        self.reference, self.strength = reference, strength

    def loss(self, batch: Batch) -> Tensor:
        loss = self.victim.loss(batch)
        if self.strength == 0:
            return loss
        with torch.no_grad():
            aligned = self.reference.on(self.device)(batch.inputs)
        return loss + self.strength * divergence(aligned, self.victim(batch.inputs))


def divergence(aligned: Tensor, tuned: Tensor) -> Tensor:
    """KL(p* || p), a scalar: p* and p the softmax of logits (B, V), in float32; mean over the rows."""
    known, found = aligned.float().log_softmax(-1), tuned.float().log_softmax(-1)
    return (known.exp() * (known - found)).sum(-1).mean()
