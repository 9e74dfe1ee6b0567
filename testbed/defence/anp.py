"""Adversarial neuron pruning: the channels whose perturbation makes a backdoored model collapse are pruned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from testbed.api import Batch, Defence, DefenderResources, Victim
from testbed.defence.channel_mask import (
    channels,
    drawn_alike,
    learned,
    passes,
    pruned,
    require_channels,
    require_count,
    require_range,
    trial_copy,
)
from testbed.identity import generator


@dataclass(frozen=True)
class ANP(Defence):
    """Learns a mask m on the reserve against the worst perturbation of channels, and prunes those with m <= `threshold`.

    min over m in [0, 1]^n of a L(m w, b) + (1 - a) max over |d|, |x| <= `budget` of L((m + d) w, (1 + x) b), w and b the
    weights and biases of batch normalisation, a the `trade_off`. The maximum is sought from a uniform start by
    `ascent_steps` steps of the sign of the gradient, each `budget` over their number long and kept within the budget; m starts
    at 1 and descends by SGD (momentum .9) at a constant rate. Pruned is w alone: biases stay, as in the paper.

    As in the authors' code, L is the training loss with the statistics of the batch; the paper does not say. The threshold is
    the paper's, the same for every model: nothing is chosen by accuracy.

    Stage: after training. Access: gradients, the reserve. Source: Wu and Wang 2021 (NeurIPS, arXiv 2110.14430).
    """

    iterations: int
    batch_size: int
    learning_rate: float
    budget: float
    ascent_steps: int
    trade_off: float
    threshold: float

    def check(self, resources: DefenderResources) -> None:
        for name in ("iterations", "batch_size", "ascent_steps"):
            require_count(name, getattr(self, name))
        for name in ("learning_rate", "budget"):
            require_range(name, getattr(self, name), 0)
        require_range("trade_off", self.trade_off, 0, 1)
        require_range("threshold", self.threshold, 0, 1)
        require_channels(resources)

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        return pruned(victim, self.mask(victim, resources) > self.threshold)

    def mask(self, victim: Victim, resources: DefenderResources) -> Tensor:
        """float32 (n,) in [0, 1]: the learned mask of the victim's channels."""
        found = channels(trial_copy(victim))
        draw = generator(resources.seed, "anp perturbation")
        passing = passes(resources.reserve, self.batch_size, victim.device, generator(resources.seed, "anp order"))
        batches = islice(chain.from_iterable(passing), self.iterations)

        def loss(mask: Tensor, batch: Batch, step: int) -> Tensor:
            def at(weights: Tensor, biases: Tensor | None = None) -> Tensor:
                with drawn_alike(resources.seed, "anp", step):
                    return found.loss(batch, weights, biases)

            start = (2 * torch.rand(2, len(mask), generator=draw) - 1).to(mask) * self.budget
            constant = mask.detach()
            worst = ascended(lambda moved: at(constant + moved[0], 1 + moved[1]), start, self.budget, self.ascent_steps)
            robust = at(mask + worst[0], 1 + worst[1])
            return self.trade_off * at(mask) + (1 - self.trade_off) * robust

        return learned(torch.ones(len(found), device=victim.device), batches, loss, self.learning_rate)


def ascended(loss: Callable[[Tensor], Tensor], start: Tensor, budget: float, steps: int) -> Tensor:
    """`start` after so many steps of budget / steps up the sign of the slope of `loss`, each kept in [-budget, budget]."""
    moved = start
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(moved), moved)
        moved = (moved + budget / steps * slope.sign()).clamp(-budget, budget)
    return moved.detach()
