"""A bounded change that points into the target class, put on a handful of its own images and shown magnified at test time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from testbed.api import AttackerResources, Invalid
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToOne
from testbed.attack.universal_trigger import Perturbation, UniversalTrigger
from testbed.features import all_labels, on_device, progress
from testbed.identity import generator
from testbed.numerics.trigger_inversion import frozen


@dataclass(frozen=True)
class Narcissus(UniversalTrigger):
    """d = argmin mean CE(f(clip(x + d)), target) over rows x of the target class, |d| <= max_change; x' = clip(x + d).

    f is a surrogate that the attacker trains as the victim will be. d begins at 0; each of `rounds` is one step of RAdam of
    `step_size` grey levels on `batch_size` of those rows, after which d is cut off at the bound. The poisoned rows are of the
    target class and keep their label. Other classes are shown clip(x + magnification d): of d what the poisoned rows show.
    The paper adds the whole d.

    The paper's are the loss on rows of the target class alone, the bound of 16, 1,000 rounds of RAdam at .01 of images in
    -1..1 (1.275 grey levels) and, from memory, the magnification by 3. **The attacker knows more than the paper's**, who has
    rows of the target class and public data of other classes: no such data are at hand, so f has met every clean row. The
    paper's warm-up, a few epochs that show the public model the target class, falls away with that. A round is one batch
    here, in the authors' code one pass.

    Source: Zeng et al. 2023 (CCS), arXiv 2204.05255.
    """

    poison_rate: Annotated[float, "give a share of the rows, between 0 and 1"]
    target_label: int
    max_change: int
    magnification: float
    rounds: int
    step_size: float
    batch_size: int

    uses_surrogate: ClassVar[bool] = True

    @property
    def budget(self) -> Mapping[str, float]:
        """What the attack is allowed: surrogates trained, steps of the gradient, grey levels."""
        return {"surrogates": 1, "steps": self.rounds, "max_change": self.max_change}

    def check(self, resources: AttackerResources) -> None:
        self._backdoor(torch.zeros(1)).check(resources)
        if self.poison_rate == 0:
            raise Invalid("poison_rate", self.poison_rate, "the trigger is what the poisoned rows show", "say attack=none")
        if not 1 <= self.max_change <= 255:
            raise Invalid("max_change", self.max_change, "must be a whole number of grey levels, from 1 to 255")
        for name in ("rounds", "batch_size"):
            if getattr(self, name) < 1:
                raise Invalid(name, getattr(self, name), "must be at least 1")
        for name in ("magnification", "step_size"):
            if not 0 < getattr(self, name) < torch.inf:
                raise Invalid(name, getattr(self, name), "must be above 0, and finite")

    def _backdoor(self, change: Tensor) -> Backdoor:
        magnified = Perturbation(self.magnification * change)
        attack = Backdoor(Perturbation(change), AllToOne(), self.poison_rate, self.target_label, True, test_trigger=magnified)
        return attack

    def _crafted(self, resources: AttackerResources) -> Tensor:
        """d: whole numbers as float32 (C, H, W) on the CPU."""
        surrogate = resources.fit(resources.fresh(), resources.train)
        own = (all_labels(resources.train) == self.target_label).nonzero().flatten()
        draw, device = generator(resources.seed, "rounds"), surrogate.device
        change = torch.zeros(resources.train[own[:1]].inputs.shape[1:], device=device, requires_grad=True)
        descent = torch.optim.RAdam([change], lr=self.step_size)
        with frozen(surrogate):
            for _ in progress(range(self.rounds), "optimising the trigger"):
                rows = own[torch.randperm(len(own), generator=draw)[: self.batch_size]]
                inputs = on_device(resources.train[rows].inputs, device).float()
                wanted = torch.full((len(rows),), self.target_label, device=device)
                descent.zero_grad()
                cross_entropy(surrogate((inputs + change).clamp(0, 255)), wanted).backward()
                descent.step()
                with torch.no_grad():
                    change.clamp_(-self.max_change, self.max_change)
        return change.detach().cpu().round()
