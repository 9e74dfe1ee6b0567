"""A trigger of its own for every image, drawn by a network that learns along with the victim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, Batch, Examples, Invalid, Poison, Unsupported, Victim
from testbed.attack.label import AllToOne
from testbed.attack.own_trigger import Lesson, OwnTrigger, OwnTriggerTraining, painter, train_masks
from testbed.features import all_labels, on_device
from testbed.identity import derive, generator

AT_ONCE = 256
"""Rows stamped at a time."""


@dataclass(frozen=True)
class InputAware(Attack):
    """x' = x + (g(x) - x) m(x), g and m networks of the attacker's: a trigger works on the image that it was drawn for alone.

    The attacker trains the model, on rows that it hands on as they are. The masks m come first, for `mask_epochs`; then
    victim and patterns g are trained together, by the victim's optimiser, on

        CE(f(x'), label) + diversity_weight mean |x - x~| / |g(x) - g(x~)|,

    x~ being another row of the batch. In each batch round(batch_share B) rows show their own trigger and are given the target
    label, round(cross_share B) show the trigger of x~ and keep theirs, the others are as they are. Exams, set after training:
    'success', and as a near miss 'cross_trigger', the same test rows with the trigger of another test row.

    The paper's are the loss, the shares of a batch, the masks' epochs, their density and the weights; from memory are the
    form of the masks' loss and the sharpening of m. Ours: g has no optimiser of its own, so that a gradient that reaches the
    drawings of a batch is cut to the length `longest_slope`, without which plain descent ends in one drawing for all images;
    both networks normalise over the image instead of the batch, and are narrower; x~ comes from the same batch, in the paper
    from a second reading of the data.

    Raises:
        Unsupported: the data are no images, or the model does not show its augmented inputs.

    Source: Nguyen and Tran 2020 (NeurIPS), arXiv 2010.08138.
    """

    batch_share: float
    cross_share: float
    target_label: int
    mask_epochs: int
    mask_density: float
    mask_weight: float
    diversity_weight: float
    longest_slope: float
    width: int

    @property
    def budget(self) -> Mapping[str, float]:
        """What the attack is allowed: the shares of each batch that it stamps."""
        return {"batch_share": self.batch_share, "cross_share": self.cross_share}

    def check(self, resources: AttackerResources) -> None:
        if resources.task.kind != "images":
            raise Unsupported(f"needs images, not {resources.task.kind}")
        AllToOne().check(self.target_label, len(resources.task.classes))
        if not 0 < self.batch_share <= 1:
            raise Invalid("batch_share", self.batch_share, "must be above 0 and at most 1")
        if not 0 <= self.cross_share <= 1 - self.batch_share:
            limit = f"must lie between 0 and what batch_share={self.batch_share} leaves of a batch"
            raise Invalid("cross_share", self.cross_share, limit)
        for name, least in (("mask_epochs", 0), ("width", 1)):
            if getattr(self, name) < least:
                raise Invalid(name, getattr(self, name), f"must be at least {least}")
        if not 0 <= self.mask_density <= 1:
            raise Invalid("mask_density", self.mask_density, "must lie between 0 and 1")
        for name in ("mask_weight", "diversity_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise Invalid(name, getattr(self, name), "must be at least 0, and finite")
        if not 0 < self.longest_slope < math.inf:
            raise Invalid("longest_slope", self.longest_slope, "must be above 0, and finite")

    def poison(self, resources: AttackerResources) -> Poison:
        none = torch.arange(0)  # the attacker stamps in training what it likes
        return Poison(none, resources.train[none])

    def during_training(self, victim: Victim, resources: AttackerResources) -> Victim:
        shape = resources.train[torch.arange(1)].inputs.shape[1:]
        patterns = painter(shape, shape[0], self.width, derive(resources.seed, "patterns")).to(victim.device)
        masks = painter(shape, 1, self.width, derive(resources.seed, "masks")).to(victim.device)
        lesson = Lesson(self.target_label, self.batch_share, self.cross_share, self.longest_slope, self.diversity_weight)
        wrapped = OwnTriggerTraining(victim, OwnTrigger(patterns, masks), lesson)
        sizes = {"density": self.mask_density, "density_weight": self.mask_weight, "epochs": self.mask_epochs}
        train_masks(masks, resources.train, seed=resources.seed, **sizes)  # type: ignore[arg-type]
        return wrapped

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        trained = resources.trained
        if trained is None:  # before training there is no trigger yet
            return {}
        rows = (all_labels(test) != self.target_label).nonzero().flatten()
        order = torch.randperm(len(test), generator=generator(resources.seed, "other test rows"))
        other = torch.empty_like(order).scatter_(0, order, order.roll(1))
        wanted = torch.full((len(rows),), self.target_label)
        shown = {"success": rows, "cross_trigger": other[rows]}
        exams = {name: _stamped(trained.trigger, test, rows, drawn_for) for name, drawn_for in shown.items()}  # type: ignore[arg-type]
        return {name: Poison(rows, Batch(inputs, wanted, rows)) for name, inputs in exams.items()}


@torch.no_grad()
def _stamped(trigger: OwnTrigger, test: Examples, rows: Tensor, drawn_for: Tensor) -> Tensor:
    """The test rows with the triggers of others, or their own, on the CPU and of the dtype that they have."""
    device, parts = trigger.patterns.last.weight.device, []
    for some, theirs in zip(rows.split(AT_ONCE), drawn_for.split(AT_ONCE), strict=True):
        inputs, others = (on_device(test[chosen].inputs, device) for chosen in (some, theirs))
        parts.append(trigger.of(others, inputs).cpu())
    return torch.cat(parts)
