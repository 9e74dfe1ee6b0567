"""Backdoors that a defender draws at random, to teach a classifier of models what backdoors do."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Batch, Victim

SIDES = (2, 3, 4, 5)
"""Pixels of a patch, in images of up to `USUAL` pixels; in proportion in larger ones."""
USUAL = 32
POISON_RATES = (0.05, 0.5)
WHOLE_OPACITIES, PATCH_OPACITIES, OPAQUE = (0.05, 0.2), (0.2, 0.6), 0.5


@dataclass(frozen=True, eq=False)
class Rows:
    """Images (n, C, H, W) and labels int64 (n,) in memory."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        return Batch(self.inputs[indices], self.labels[indices], indices)


def drawn(clean: Rows, classes: int, draw: torch.Generator) -> Rows:
    """The rows, and after them stamped copies of some, with one wrong label: a backdoor of which everything is random.

    A square of noise, of 2 to 5 pixels a side, somewhere, blended in at .2 to .6 (above .5 it replaces what was there), or
    with the chance of each side noise all over, at .05 to .2; any target; copies of 5 to 50 % of the rows. Stored as the
    images are. The ranges are those of the authors' code as we remember them.

    Source: Xu et al. 2021 (IEEE S&P, arXiv 1910.03137), jumbo learning.
    """
    channels, height, width = clean.inputs.shape[1:]
    kind, target = _whole(len(SIDES) + 1, draw), _whole(classes, draw)
    count = max(1, round(_between(POISON_RATES, draw) * len(clean)))
    if kind == len(SIDES):
        top, left, tall, wide, opacity = 0, 0, height, width, _between(WHOLE_OPACITIES, draw)
    else:
        side = min(height, width, round(SIDES[kind] * max(1.0, min(height, width) / USUAL)))
        top, left, tall, wide = _whole(height - side + 1, draw), _whole(width - side + 1, draw), side, side
        opacity = _between(PATCH_OPACITIES, draw)
        opacity = 1.0 if opacity > OPAQUE else opacity
    pattern = 255 * torch.rand(channels, tall, wide, generator=draw)
    chosen = torch.randperm(len(clean), generator=draw)[:count]
    stamped = clean.inputs[chosen].float()
    place = stamped[:, :, top : top + tall, left : left + wide]
    place.lerp_(pattern.expand_as(place), opacity)
    stored = stamped.to(clean.inputs.dtype) if clean.inputs.is_floating_point() else stamped.round().to(clean.inputs.dtype)
    return Rows(torch.cat([clean.inputs, stored]), torch.cat([clean.labels, torch.full((count,), target)]))


def reinitialised(victim: Victim, seed: int) -> Victim:
    """A copy with other first weights: every module that can resets itself.

    Parameters of modules that cannot are drawn from normal distributions of their own mean and spread.
    """
    other = copy.deepcopy(victim)
    done: set[int] = set()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in other.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
                done |= {id(parameter) for parameter in module.parameters(recurse=False)}
        for parameter in other.parameters():
            if id(parameter) not in done and parameter.numel() > 1:
                parameter.normal_(float(parameter.mean()), float(parameter.std()))
    return other


def _whole(below: int, draw: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=draw))


def _between(limits: tuple[float, float], draw: torch.Generator) -> float:
    low, high = limits
    return low + (high - low) * float(torch.rand((), generator=draw))
