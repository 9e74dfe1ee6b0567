"""The search for one patch, a few steps at a time: `trigger_inversion` for those who decide in between what goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from testbed.numerics.trigger_inversion import CostSchedule

WORTH_CONFIRMING = 0.99
"""A mask is tried on all inputs only where it is so much smaller than the last one that was."""
AT_ONCE = 256


@dataclass(frozen=True)
class Effort:
    """How hard a patch is searched for; as `trigger_inversion.Inversion`, but `patience` counts steps."""

    batch_size: int
    learning_rate: float
    initial_cost: float
    patience: int
    success_threshold: float


@dataclass
class ResumableInversion:
    """Minimises `CE(f((1 - m) x + m p), target) + cost |m|_1` over m in (0, 1) and p in (0, 255) by Adam, betas (.5, .9).

    `inputs` (n, C, H, W) in 0..255 lie on the model's device. The cost is that of `CostSchedule`, moved after every step by
    whether its batch reached `success_threshold`. `mask` (1, H, W) and `pattern` (C, H, W) are the smallest that reached it on
    all inputs, and `reached` says so; until then, the last. `share` is the mean of that mask, 1 until it was reached once.
    The model must be frozen (`trigger_inversion.frozen`). `draw` orders the inputs.

    Source: Wang et al. 2019 (Neural Cleanse, IEEE S&P).
    """

    inputs: Tensor
    target: int
    effort: Effort
    draw: torch.Generator
    reached: bool = False
    share: float = 1.0
    rounds: int = 0
    order: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = self.inputs.shape
        start = torch.rand(shape[1] + 1, *shape[2:], generator=self.draw).to(self.inputs.device)
        self.free = (torch.logit(start, eps=1e-4) / 2).requires_grad_()
        self.adam = torch.optim.Adam([self.free], lr=self.effort.learning_rate, betas=(0.5, 0.9))
        self.schedule = CostSchedule.of(1, self.effort.initial_cost, self.effort.patience)
        self.mask, self.pattern = self._patch(detached=True)

    def go_on(self, model: nn.Module, steps: int) -> None:
        """So many steps more."""
        for _ in range(steps):
            self._step(model)
        self.rounds += 1

    @torch.no_grad()
    def success_rate(self, model: nn.Module, mask: Tensor, pattern: Tensor) -> float:
        """Share of the inputs that this patch sends to the target."""
        hits = 0
        for images in self.inputs.split(AT_ONCE):
            hits += int((model((1 - mask) * images.float() + mask * pattern).argmax(1) == self.target).sum())
        return hits / len(self.inputs)

    def _step(self, model: nn.Module) -> None:
        if not self.order:
            self.order = list(torch.randperm(len(self.inputs), generator=self.draw).split(self.effort.batch_size))
        images = self.inputs[self.order.pop().to(self.inputs.device)].float()
        mask, pattern = self._patch()
        logits = model((1 - mask) * images + mask * pattern).float()
        wanted = torch.full((len(images),), self.target, device=images.device)
        self.adam.zero_grad()
        (cross_entropy(logits, wanted) + float(self.schedule.cost) * mask.sum()).backward()
        hit = float((logits.detach().argmax(1) == self.target).float().mean()) >= self.effort.success_threshold
        if hit or not self.reached:
            self._keep(model, mask.detach(), pattern.detach(), hit)
        self.adam.step()
        self.schedule.update(torch.tensor([hit]))

    def _keep(self, model: nn.Module, mask: Tensor, pattern: Tensor, hit: bool) -> None:
        share = float(mask.mean())
        better = hit and (share < WORTH_CONFIRMING * self.share or not self.reached)
        if better and self.success_rate(model, mask, pattern) >= self.effort.success_threshold:
            self.reached, self.share = True, share
        elif self.reached:
            return
        self.mask, self.pattern = mask, pattern

    def _patch(self, *, detached: bool = False) -> tuple[Tensor, Tensor]:
        bounded = (self.free.detach() if detached else self.free).tanh() / 2 + 0.5
        return bounded[:1], 255 * bounded[1:]
