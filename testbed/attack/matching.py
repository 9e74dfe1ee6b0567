"""Clean-label poison by gradient matching: what attacks on one row and on a pair of classes have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, Batch, Invalid, Poison, Unsupported, Victim
from testbed.attack.grey_levels import whole_levels
from testbed.attack.rehearsal import Stamped
from testbed.features import all_labels, evaluating, progress
from testbed.identity import derive, generator
from testbed.numerics.gradient_matching import Matching, Search, target_gradient


@dataclass(frozen=True)
class MatchedPoison(Attack):
    """Rows of the wanted class whose training gradient points where that of `aim` with the wanted label does.

    Of `restarts` searches of `iterations` steps (`numerics.gradient_matching.Search`) the one that ends with the smallest
    mismatch is kept. With `augment` rows are moved as the victim moves them in training. Unless `rounded`, they stay float32;
    rounding never passes the bound.
    """

    poison_rate: Annotated[float, "give a share of the rows, between 0 and 1"]
    max_change: float
    iterations: int
    restarts: int
    step_size: float
    batch_size: int
    augment: bool
    rounded: bool

    def check(self, resources: AttackerResources) -> None:
        if resources.task.kind != "images":
            raise Unsupported(f"needs images, not {resources.task.kind}")
        for name, least in (("iterations", 1), ("restarts", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise Invalid(name, getattr(self, name), f"must be at least {least}")
        if not 0 < self.max_change <= 255:
            raise Invalid("max_change", self.max_change, "must be grey levels, above 0 and at most 255")
        if self.rounded and self.max_change < 1:
            limit = "rounded rows are stored in whole grey levels, so that none would change"
            raise Invalid("max_change", self.max_change, limit, "say at least 1, or attack.rounded=false")
        if not 0 < self.step_size < math.inf:
            raise Invalid("step_size", self.step_size, "must be above 0", "it is a share of max_change")

    def count(self, wanted: int, resources: AttackerResources) -> int:
        """round(poison_rate n), if the wanted class has so many rows.

        Raises:
            Invalid: it has not, or there would be none.
        """
        labels = all_labels(resources.train)
        if not 0 <= self.poison_rate <= 1:
            raise Invalid("poison_rate", self.poison_rate, "must lie between 0 and 1")
        asked, there = round(self.poison_rate * len(labels)), int((labels == wanted).sum())
        if not asked:
            limit = f"{self.poison_rate} x {len(labels)} training rows rounds to 0 rows"
            raise Invalid("poison_rate", self.poison_rate, limit, "raise it, or say attack=none")
        if asked > there:
            limit = f"needs {asked} rows of the wanted class {wanted}, which has {there}"
            raise Invalid("poison_rate", self.poison_rate, limit, f"at most {there / len(labels):.4g} works here")
        return asked

    def crafted(
        self, rows: Tensor, aim: Batch, first: Victim, resources: AttackerResources, *, retrain_iterations: int = 0
    ) -> Poison:
        """The rows, int64 (n,), perturbed so that training on them resembles training on `aim` (inputs and wanted labels).

        `first` is the surrogate, trained on clean rows. After each `retrain_iterations` steps, unless these are 0, another
        takes its place: trained afresh on all rows with the poison as it stands.
        """
        clean, everything = resources.train[rows], torch.arange(len(resources.train))
        matching = Matching(self.max_change, self.iterations, self.step_size, self.batch_size)
        found: list[tuple[float, Batch]] = []
        for restart in range(self.restarts):
            seed, surrogate = derive(resources.seed, f"restart {restart}"), first
            images, labels = clean.inputs.to(first.device), clean.labels.to(first.device)
            search = Search(images, labels, matching, generator=generator(seed, "start"))
            while search.done < self.iterations:
                if search.done:
                    received = Stamped(resources.train, everything, Poison(rows, self._delivered(search, clean)))
                    surrogate = resources.fit(resources.fresh(), received)
                steps = min(retrain_iterations or self.iterations, self.iterations - search.done)
                gap = self._searched(search, surrogate, aim, steps, derive(seed, f"step {search.done}"))
            found.append((gap, self._delivered(search, clean)))
        return Poison(rows, min(found, key=lambda one: one[0])[1])

    def _searched(self, search: Search, surrogate: Victim, aim: Batch, steps: int, seed: int) -> float:
        """So many steps against one surrogate: the mismatch at the end."""
        device, moved = surrogate.device, moving(surrogate, seed) if self.augment else unmoved
        with evaluating(surrogate):
            wanted = target_gradient(surrogate, aim.inputs.float().to(device), aim.labels.to(device), self.batch_size)
            return search.run(surrogate, wanted, progress(range(steps), "matching gradients", steps), augmented=moved)

    def _delivered(self, search: Search, clean: Batch) -> Batch:
        changed = search.changed.cpu()
        stored = whole_levels(changed, clean.inputs, self.max_change) if self.rounded else changed
        return Batch(stored, clean.labels, clean.rows)


def unmoved(images: Tensor) -> Tensor:
    """The images as they are."""
    return images


def moving(victim: Victim, seed: int) -> Callable[[Tensor], Tensor]:
    """A differentiable function that moves images as this victim, in evaluation mode, would in training; anew at each call.

    Its batch normalisation stays in evaluation mode. A victim that moves nothing leaves them as they are.
    """
    draw = generator(seed, "augmentation")

    def moved(images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # augmentation draws from the CPU's global generator, whatever the device
            torch.default_generator.manual_seed(int(torch.randint(2**62, (1,), generator=draw)))
            victim.training = True
            try:
                return victim.augmented(images)  # type: ignore[operator]
            finally:
                victim.training = False

    return moved if hasattr(victim, "augmented") else unmoved


def drawn_label(others: Tensor, seed: int, purpose: str) -> int:
    """One of these classes, int64 (n,)."""
    return int(others[torch.randint(len(others), (1,), generator=generator(seed, purpose))])
