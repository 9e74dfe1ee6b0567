"""The smallest patch that sends any image to a class, searched by gradient for many classes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

COST_RISE = 2.0
COST_FALL = 2.0**1.5
STALE_PATIENCES = 5


class InvertedTriggers(NamedTuple):
    """One patch for each class asked for, on the CPU: `x' = (1 - mask) x + mask pattern`.

    `masks` float32 (K, 1, H, W) in 0..1; `patterns` float32 (K, C, H, W) in 0..255; `success_rates` (K,): share of the given
    images that the patch sends to its class.
    """

    masks: Tensor
    patterns: Tensor
    success_rates: Tensor

    @property
    def sizes(self) -> Tensor:
        """L1 norm of each mask, float32 (K,), in pixels."""
        return self.masks.sum((1, 2, 3))


@dataclass(frozen=True)
class Inversion:
    """How long and how hard to search; `initial_cost` is the first weight of the mask's size in the loss."""

    epochs: int
    batch_size: int
    learning_rate: float
    initial_cost: float
    patience: int
    success_threshold: float


def invert_triggers(
    model: nn.Module,
    inputs: Tensor,
    classes: Sequence[int],
    inversion: Inversion,
    *,
    generator: torch.Generator,
    classes_at_once: int | None = None,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> InvertedTriggers:
    """Minimise `CE(f((1 - m) x + m p), class) + cost |m|_1` over m in (0, 1) and p in (0, 255), each a tanh of free numbers.

    `inputs` (n, C, H, W) in 0..255, on the device of the model, which maps float32 images in 0..255 to logits. Adam with
    betas (.5, .9). After each pass over the inputs every class has its own cost adjusted: 0 until the class was reached in
    `patience` passes, then `initial_cost`, doubled after `patience` passes at or above `success_threshold` and divided by
    2^1.5 after as many below it; the success of a pass is averaged over its steps. A class whose cost has gone both ways and
    whose mask has not shrunk for 5 `patience` passes is finished. Kept is the smallest mask that reaches the threshold itself,
    on all inputs (the authors' code keeps the mask left by a pass that did so on average, which may fall short of it); a class
    that never reaches it keeps its last mask, and `success_rates` tells. `classes_at_once` bounds memory and changes no
    result beyond rounding; `watch` sees the passes (a progress bar). The model's modes and gradient flags are restored.

    Source: Wang et al. 2019 (Neural Cleanse, IEEE S&P), schedule as in the authors' published code.
    """
    start = torch.rand(len(classes), inputs.shape[1] + 1, *inputs.shape[2:], generator=generator)
    orders = [torch.randperm(len(inputs), generator=generator).to(inputs.device) for _ in range(inversion.epochs)]
    targets = torch.tensor(list(classes), device=inputs.device)
    search = _Search(model, inputs, inversion, orders)
    groups = zip(*(part.split(classes_at_once or len(classes)) for part in (targets, start)), strict=True)
    with frozen(model):
        found = [search.run(group, first.to(inputs.device), watch) for group, first in groups]
    return InvertedTriggers(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients of the parameters inside; everything as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@dataclass
class CostSchedule:
    """The cost of each class (K,), moved by whether its last pass succeeded."""

    initial_cost: float
    patience: int
    cost: Tensor
    successes: Tensor
    failures: Tensor
    rose: Tensor
    fell: Tensor

    @classmethod
    def of(cls, count: int, initial_cost: float, patience: int) -> CostSchedule:
        """All costs zero."""
        counts, flags = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)
        cost = torch.zeros(count, dtype=torch.float64)
        return cls(initial_cost, patience, cost, counts, counts.clone(), flags, flags.clone())

    def update(self, succeeded: Tensor) -> None:
        """`succeeded` bool (K,): did the pass reach the threshold?"""
        self.successes = torch.where(succeeded, self.successes + 1, 0)
        self.failures = torch.where(succeeded, 0, self.failures + 1)
        started = self.cost > 0
        rising = self.successes >= self.patience
        falling = started & (self.failures >= self.patience)
        self.cost = torch.where(rising & ~started, self.initial_cost, self.cost)
        self.cost = torch.where(rising & started, self.cost * COST_RISE, self.cost)
        self.cost = torch.where(falling, self.cost / COST_FALL, self.cost)
        self.rose |= rising & started
        self.fell |= falling
        self.successes[rising] = 0
        self.failures[self.failures >= self.patience] = 0


@dataclass
class _Best:
    """The smallest successful patch of each class (until there is one, its last), and the passes since it shrank."""

    patches: list[Tensor]
    sizes: Tensor
    stale: Tensor

    @classmethod
    def of(cls, start: Tensor) -> _Best:
        sizes = torch.full((len(start),), torch.inf, dtype=torch.float64)
        return cls(list(start), sizes, torch.zeros(len(start), dtype=torch.int64))

    def update(self, indices: Tensor, masks: Tensor, patterns: Tensor, smaller: Tensor) -> None:
        sizes = _sizes(masks)
        for position in torch.nonzero(smaller | self.sizes[indices].isinf()).flatten().tolist():
            self.patches[indices[position]] = torch.cat([masks[position], patterns[position]])
        self.sizes[indices] = torch.where(smaller, sizes, self.sizes[indices])
        self.stale[indices] = torch.where(smaller | self.sizes[indices].isinf(), 0, self.stale[indices] + 1)


@dataclass(frozen=True)
class _Search:
    model: nn.Module
    inputs: Tensor
    inversion: Inversion
    orders: Sequence[Tensor]

    def run(self, targets: Tensor, start: Tensor, watch: Callable[[Iterable[int]], Iterable[int]]) -> InvertedTriggers:
        # A list with a tensor per class, so that Adam leaves alone the finished classes, which have no gradient.
        free = [(torch.logit(part, eps=1e-4) / 2).requires_grad_() for part in start]
        adam = torch.optim.Adam(free, lr=self.inversion.learning_rate, betas=(0.5, 0.9))
        schedule = CostSchedule.of(len(targets), self.inversion.initial_cost, self.inversion.patience)
        best = _Best.of(start)
        active = torch.arange(len(targets))
        for epoch in watch(range(self.inversion.epochs)):
            chosen = [free[index] for index in active.tolist()]
            cost = schedule.cost[active].to(self.inputs.device, torch.float32)
            wanted = targets[active.to(targets.device)]
            succeeded = torch.zeros(len(targets), dtype=torch.bool)
            succeeded[active] = self._one_pass(adam, chosen, wanted, cost, self.orders[epoch])
            schedule.update(succeeded)
            masks, patterns = (part.detach() for part in _patches(chosen))
            smaller = succeeded[active] & (_sizes(masks) < best.sizes[active])
            best.update(active, masks, patterns, self._confirmed(smaller, masks, patterns, wanted))
            stale = best.stale >= STALE_PATIENCES * self.inversion.patience
            active = active[~(schedule.rose & schedule.fell & stale)[active]]
            if not len(active):
                break
        masks, patterns = torch.stack(best.patches).split([1, self.inputs.shape[1]], dim=1)
        return InvertedTriggers(masks, patterns, self._success_rates(masks, patterns, targets))

    def _one_pass(self, adam: torch.optim.Adam, free: list[Tensor], targets: Tensor, cost: Tensor, order: Tensor) -> Tensor:
        """One pass over the inputs, a step for each batch; bool (k,) on the CPU: was the threshold reached on average?"""
        hits = torch.zeros(len(free), device=targets.device)
        for rows in order.split(self.inversion.batch_size):
            masks, patterns = _patches(free)
            logits = self._logits(self.inputs[rows], masks, patterns)
            hits += (logits.detach().argmax(2) == targets[:, None]).sum(1)
            wanted = targets[:, None].expand(logits.shape[:2])
            misses = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape).mean(1)
            adam.zero_grad()
            (misses + cost * masks.sum((1, 2, 3))).sum().backward()
            adam.step()
        return (hits / len(order)).cpu() >= self.inversion.success_threshold

    def _confirmed(self, claimed: Tensor, masks: Tensor, patterns: Tensor, targets: Tensor) -> Tensor:
        """Of the claimed patches, bool (k,), those that reach the threshold as they are now."""
        if not claimed.any():
            return claimed
        chosen = claimed.to(targets.device)
        rates = self._success_rates(masks[chosen], patterns[chosen], targets[chosen])
        return claimed.masked_scatter(claimed, rates.cpu() >= self.inversion.success_threshold)

    @torch.no_grad()
    def _success_rates(self, masks: Tensor, patterns: Tensor, targets: Tensor) -> Tensor:
        hits = torch.zeros(len(targets), device=targets.device)
        for images in self.inputs.split(self.inversion.batch_size):
            hits += (self._logits(images, masks, patterns).argmax(2) == targets[:, None]).sum(1)
        return hits / len(self.inputs)

    def _logits(self, images: Tensor, masks: Tensor, patterns: Tensor) -> Tensor:
        """float (k, b, classes): every image with every patch."""
        patched = (1 - masks[:, None]) * images.float() + (masks * patterns)[:, None]
        return self.model(patched.flatten(0, 1)).unflatten(0, patched.shape[:2]).float()


def _sizes(masks: Tensor) -> Tensor:
    return masks.sum((1, 2, 3)).cpu().double()


def _patches(free: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Masks (k, 1, H, W) in 0..1 and patterns (k, C, H, W) in 0..255 from free numbers, a (1 + C, H, W) for each class."""
    bounded = torch.stack(free).tanh() / 2 + 0.5
    return bounded[:, :1], 255 * bounded[:, 1:]
