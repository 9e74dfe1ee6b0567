"""Masks over the channels of batch normalisation: how they act on a victim's loss, how they are learned, what they prune."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from testbed.api import Batch, DefenderResources, Examples, Invalid, Unsupported, Victim
from testbed.defence.fine_tuning import require_reserve
from testbed.defence.substitution import loss_at
from testbed.features import on_device
from testbed.identity import derive

MOMENTUM = 0.9
"""Of the masks' descent, in the methods that learn them."""


@dataclass(frozen=True)
class Channels:
    """The batch-normalised channels of a victim, n in all, counted through its layers in order: y = weight x' + bias each."""

    victim: Victim
    names: tuple[str, ...]
    norms: tuple[_BatchNorm, ...]

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Channels by layer."""
        return [norm.num_features for norm in self.norms]

    def loss(self, batch: Batch, weights: Tensor, biases: Tensor | None = None) -> Tensor:
        """The victim's loss with every channel's weight and bias multiplied by these factors, (n,) each; None leaves biases."""
        values = {}
        for name, norm, factor in zip(self.names, self.norms, weights.split(self.sizes), strict=True):
            values[f"{name}.weight"] = norm.weight * factor
        for name, norm, factor in zip(self.names, self.norms, () if biases is None else biases.split(self.sizes), strict=False):
            values[f"{name}.bias"] = norm.bias * factor
        return loss_at(self.victim, batch, values)


def channels(victim: Victim) -> Channels:
    """All channels that are normalised over the batch with a weight and a bias of their own."""
    found = {name: norm for name, norm in victim.named_modules() if isinstance(norm, _BatchNorm) and norm.affine}
    return Channels(victim, tuple(found), tuple(found.values()))


def require_channels(resources: DefenderResources) -> None:
    """Raises `Unsupported` for a model without batch normalisation, `Invalid` for a reserve of fewer than two rows."""
    if not len(channels(resources.fresh())):
        raise Unsupported("needs a model with batch normalisation, whose channels it can prune")
    require_reserve(resources)


def require_range(parameter: str, value: float, lower: float, upper: float = float("inf")) -> None:
    """Raises `Invalid` unless lower < value < upper."""
    if not lower < value < upper:
        limit = f"must be above {lower:g}" + ("" if upper == float("inf") else f" and below {upper:g}")
        raise Invalid(parameter, value, limit)


def require_count(parameter: str, value: int, least: int = 1) -> None:
    """Raises `Invalid` unless value >= least."""
    if value < least:
        raise Invalid(parameter, value, f"must be at least {least}")


def trial_copy(victim: Victim) -> Victim:
    """A copy in training mode whose parameters want no gradient: what masks are learned on, and thrown away."""
    return copy.deepcopy(victim).train().requires_grad_(False)


def passes(examples: Examples, batch_size: int, device: torch.device, generator: torch.Generator) -> Iterator[list[Batch]]:
    """Pass after pass without end, each in an order of its own: batches of `batch_size` rows at most, alike in size.

    None is smaller than two rows, which is what batch normalisation needs, so that tiny batches may be larger than asked for.
    """
    count = max(1, min(-(-len(examples) // batch_size), len(examples) // 2))
    while True:
        order = torch.randperm(len(examples), generator=generator)
        batches = (examples[rows] for rows in order.tensor_split(count))
        yield [Batch(on_device(batch.inputs, device), batch.labels.to(device), batch.rows) for batch in batches]


@contextmanager
def drawn_alike(seed: int, purpose: str, step: int) -> Iterator[None]:
    """Inside, torch's global generators begin where these three say: passes over one batch augment it alike."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, f"{purpose}, step {step}"))
        yield


def learned(
    start: Tensor, batches: Iterable[Batch], loss: Callable[[Tensor, Batch, int], Tensor], learning_rate: float
) -> Tensor:
    """A mask (n,) that begins at `start` and minimises `loss(mask, batch, step)` by SGD, kept in [0, 1] after each step."""
    mask = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([mask], lr=learning_rate, momentum=MOMENTUM)
    for step, batch in enumerate(batches):
        optimiser.zero_grad()
        loss(mask, batch, step).backward()
        optimiser.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    return mask.detach()


@torch.no_grad()
def pruned(victim: Victim, keep: Tensor) -> Victim:
    """A copy in which the weight of each channel that is not in `keep`, bool (n,), is 0: what is left of it is its bias."""
    repaired = copy.deepcopy(victim)
    found = channels(repaired)
    for norm, kept in zip(found.norms, keep.split(found.sizes), strict=True):
        norm.weight.mul_(kept.to(norm.weight))
    return repaired
