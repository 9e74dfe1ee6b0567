"""Elastic weight consolidation: the weights that the aligned behaviour hangs on are held more firmly than others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Defence, DefenderResources, Examples, Victim
from testbed.defence.l2_sp import Anchored, trainable
from testbed.defence.wrapper import chat_model, chat_task, refusal_rows, require_strength
from testbed.features import evaluating
from testbed.language import ChatVictim


@dataclass(frozen=True)
class EWC(Defence):
    """Minimises L + strength/2 sum_i F_i (w_i - w*_i)^2, w* the weights that fine-tuning starts from, F their Fisher diagonal.

    F is the *empirical* Fisher over the rows of the reserve, refusals and harmless answers alike: the mean of the squared
    gradients of log p(answer | prompt), with the reserve's own answers, none sampled from the model. For fresh adapters B A
    the Fisher of every A is exactly 0, because B = 0: only B is held. Strength 0 is plain fine-tuning.

    Stage: fine-tuning. Access: gradients, a copy of the aligned weights, the reserve's rows.
    Source: Kirkpatrick et al. 2017, arXiv 1612.00796.
    """

    strength: float

    def check(self, resources: DefenderResources) -> None:
        chat_task(resources)
        require_strength(self.strength)
        refusal_rows(resources)

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        if self.strength == 0:
            return victim
        model = chat_model(victim)
        anchor = {name: weight.detach().clone() for name, weight in trainable(model).items()}
        return Anchored(model, self.strength, anchor, fisher(model, resources.reserve))


def fisher(victim: ChatVictim, examples: Examples) -> dict[str, Tensor]:
    """Mean over the rows of (d log p(answer | prompt) / dw)^2, float32, by trainable parameter; one backward pass a row."""
    weights = trainable(victim)
    total = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    with evaluating(victim):
        for row in range(len(examples)):
            surprise = victim.token_losses(victim.tokens(examples[torch.tensor([row])])).sum()
            slopes = torch.autograd.grad(surprise, list(weights.values()), materialize_grads=True)
            for name, slope in zip(weights, slopes, strict=True):
                total[name] += slope.float().square()
    return {name: value / len(examples) for name, value in total.items()}
