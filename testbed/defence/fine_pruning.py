"""Fine-pruning: silence the channels that clean rows leave dormant, then fine-tune."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from testbed.api import Batch, ChannelParameter, Defence, DefenderResources, Examples, Invalid, Unsupported, Victim
from testbed.defence.fine_tuning import require_reserve
from testbed.features import accuracy, read


@dataclass(frozen=True)
class FinePruning(Defence):
    """Prunes channels in order of their mean activation on the reserve, then fine-tunes what is left on the reserve.

    A `step` of the channels at a time goes, as long as accuracy on the reserve stays at or above (1 - `max_drop`) times what it
    was; pruned channels stay silent while fine-tuning. Nothing but the reserve is looked at. Channels are those of the last
    layer before the classifier, the inputs of its linear head.

    Source: Liu et al. 2018 (RAID, arXiv 1805.12185).
    """

    max_drop: float
    step: float
    epochs: int
    optimiser: Callable[..., torch.optim.Optimizer]

    def check(self, resources: DefenderResources) -> None:
        for name, value in (("max_drop", self.max_drop), ("step", self.step)):
            if not 0 < value < 1:
                raise Invalid(name, value, "must lie between 0 and 1, both excluded")
        if self.epochs < 1:
            raise Invalid("epochs", self.epochs, "must be at least 1")
        require_reserve(resources)
        if "penultimate" not in resources.fresh().groups:
            raise Unsupported("fine-pruning needs a convolutional model, whose last channels it can prune")

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        activation = read(victim, resources.reserve, "penultimate").features.mean(0)
        pruned = copy.deepcopy(victim)
        masks = [_mask(parameter) for parameter in pruned.groups["penultimate"]]
        _silence(masks, self._kept(pruned, masks, activation, resources.reserve))
        tuned = resources.fit(pruned, resources.reserve, epochs=self.epochs, optimiser=self.optimiser)
        for parameter in tuned.groups["penultimate"]:
            parametrize.remove_parametrizations(parameter.module, parameter.name)
        return tuned

    def objective(self, victim: Victim, batch: Batch) -> Tensor:
        """The victim's own training loss, which its fine-tuning minimises."""
        return victim.loss(batch)

    def _kept(self, pruned: Victim, masks: list[Mask], activation: Tensor, reserve: Examples) -> Tensor:
        """Which channels to keep, bool (channels,): the smallest set tried that was still accurate enough."""
        order = activation.argsort()
        least = (1 - self.max_drop) * accuracy(pruned, reserve)
        stride = max(1, round(self.step * len(order)))
        kept = torch.ones(len(order), dtype=torch.bool)
        for end in range(stride, len(order), stride):
            keep = torch.ones(len(order), dtype=torch.bool)
            keep[order[:end]] = False
            _silence(masks, keep)
            if accuracy(pruned, reserve) < least:
                break
            kept = keep
        return kept


class Mask(nn.Module):
    """Multiplies a parameter by 0 or 1 along one dimension."""

    def __init__(self, channels: int, dim: int, dims: int) -> None:
        super().__init__()
        shape = [channels if axis == dim else 1 for axis in range(dims)]
        self.register_buffer("keep", torch.ones(shape))

    def forward(self, parameter: Tensor) -> Tensor:
        return parameter * self.keep


def _mask(parameter: ChannelParameter) -> Mask:
    tensor = getattr(parameter.module, parameter.name)
    mask = Mask(tensor.shape[parameter.dim], parameter.dim, tensor.dim()).to(tensor.device)
    parametrize.register_parametrization(parameter.module, parameter.name, mask)
    return mask


def _silence(masks: list[Mask], keep: Tensor) -> None:
    for mask in masks:
        mask.keep.copy_(keep.view(mask.keep.shape))
