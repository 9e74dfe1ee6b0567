"""A bounded change of all pixels, the same for every image, that the attacker's own surrogates chose by gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from testbed.api import AttackerResources, Batch, Examples, Invalid, Victim
from testbed.attack.backdoor import Backdoor
from testbed.attack.label import AllToOne
from testbed.attack.rehearsal import Rehearsed, check_known, rehearse
from testbed.attack.universal_trigger import Perturbation, UniversalTrigger
from testbed.features import accuracy, all_labels, select
from testbed.identity import derive, generator
from testbed.numerics.trigger_inversion import frozen


@dataclass(frozen=True)
class OptimisedTrigger(UniversalTrigger):
    """BadNets' labels with x' = clip(x + d), |d| at most `max_change` grey levels, d chosen by signed gradient descent.

    d begins as random signs. In each of `rounds` a surrogate is trained on rows that carry the present d; then `steps`
    steps of size 2.5 max_change / steps, each on `batch_size` rows of other classes, lower the cross entropy of the target,

        sum over models f of CE(f(x + d), target_label),

    over the surrogates of all rounds so far and, where the attacker knows a defence, over what the defence made of each. One
    more model is then the latest surrogate while it is repaired: between two steps of d it takes one of SGD at `repair_rate`
    on the defence's own `objective`, if it has one. A last surrogate is trained at the end; kept is the d whose model (the
    defended one where there is one) gave in most often on `reserve_share` of the rows, which no model had met, and the latest
    of equals. 0 rounds leave the random signs. At test time, d is what the poisoned rows show of it.

    Source: universal perturbations by projected gradient (Moosavi-Dezfooli et al. 2017, arXiv 1610.08401; Madry et al. 2018,
    arXiv 1706.06083), as a trigger as in Narcissus (Zeng et al. 2023, arXiv 2204.05255), but with dirty labels.
    """

    poison_rate: Annotated[float, "give a share of the rows, between 0 and 1"]
    target_label: int
    max_change: int
    rounds: int
    steps: int
    batch_size: int
    reserve_share: float
    repair_rate: float

    uses_surrogate: ClassVar[bool] = True

    @property
    def budget(self) -> Mapping[str, float]:
        """What the attack is allowed: surrogates trained, steps of the gradient in all, grey levels."""
        surrogates = self.rounds + 1 if self.rounds else 0
        return {"surrogates": surrogates, "steps": self.rounds * self.steps, "max_change": self.max_change}

    def check(self, resources: AttackerResources) -> None:
        self._backdoor(torch.zeros(1)).check(resources)
        if self.poison_rate == 0:
            raise Invalid("poison_rate", self.poison_rate, "a trigger is learnt from rows that show it", "say attack=none")
        for name, least in (("rounds", 0), ("steps", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise Invalid(name, getattr(self, name), f"must be at least {least}")
        if not 1 <= self.max_change <= 255:
            raise Invalid("max_change", self.max_change, "must be a whole number of grey levels, from 1 to 255")
        if not self.repair_rate > 0:
            raise Invalid("repair_rate", self.repair_rate, "must be above 0")
        if not 0 < self.reserve_share < 1:
            raise Invalid("reserve_share", self.reserve_share, "must lie between 0 and 1, both excluded")
        count, left = round(self.reserve_share * len(resources.train)), round((1 - self.poison_rate) * len(resources.train))
        if not (count > 1 and 2 * count < left):
            limit = f"twice {count} of {left} clean rows would be kept back, which must be 2 at least and not all of them"
            raise Invalid("reserve_share", self.reserve_share, limit, "0.1 is a tenth of the rows")
        check_known(resources, self.reserve_share)

    def _backdoor(self, change: Tensor) -> Backdoor:
        return Backdoor(Perturbation(change), AllToOne(), self.poison_rate, self.target_label)

    def _crafted(self, resources: AttackerResources) -> Tensor:
        """d: whole numbers as float32 (C, H, W)."""
        shape = resources.train[torch.arange(1)].inputs.shape[1:]
        signs = torch.rand(shape, generator=generator(resources.seed, "trigger")) < 0.5
        change = torch.where(signs, -1.0, 1.0) * self.max_change
        tried: list[tuple[float, Tensor]] = []
        met: list[Victim] = []
        for turn in range(self.rounds + 1 if self.rounds else 0):
            seed = derive(resources.seed, f"round {turn}")
            rehearsed = rehearse(resources, self._backdoor(change).poison(resources), self.reserve_share, seed)
            tried.append((self._success(rehearsed, change, resources), change))
            met += [model for model in (rehearsed.undefended, rehearsed.defended) if model is not None]
            if turn < self.rounds:
                change = self._improved(change, met, self._repaired(rehearsed, resources, seed), resources, seed=seed)
        return max(reversed(tried), key=lambda trial: trial[0])[1] if tried else change

    def _success(self, rehearsed: Rehearsed, change: Tensor, resources: AttackerResources) -> float:
        """Share of unseen rows of other classes that are taken for the target."""
        unseen = rehearsed.unseen
        asked = select(unseen, (all_labels(unseen) != self.target_label).nonzero().flatten())
        exam = _Answered(asked, Perturbation(change), self.target_label)
        model = rehearsed.undefended if rehearsed.defended is None else rehearsed.defended
        return accuracy(model, exam) if len(asked) else 0.0

    def _improved(
        self, change: Tensor, met: Sequence[Victim], repaired: Iterator[Victim], resources: AttackerResources, *, seed: int
    ) -> Tensor:
        """d after so many steps against all models met; `repaired` gives one more model for each step, or none."""
        others = (all_labels(resources.train) != self.target_label).nonzero().flatten()
        draw, size = generator(seed, "steps"), 2.5 * self.max_change / self.steps
        for _ in range(self.steps):
            rows = others[torch.randint(len(others), (self.batch_size,), generator=draw)]
            inputs = resources.train[rows].inputs.float()
            slope = torch.zeros_like(change)
            for model in (*met, *islice(repaired, 1)):
                slope += self._slope(model, inputs, change)
            change = (change - size * slope.sign()).clamp(-self.max_change, self.max_change)
        return change.round()

    def _slope(self, model: Victim, inputs: Tensor, change: Tensor) -> Tensor:
        """The gradient of CE(f(x + d), target_label) in d, float32 (C, H, W) on the CPU."""
        free = change.to(model.device).requires_grad_()
        with frozen(model):
            logits = model((inputs.to(model.device) + free).clamp(0, 255))
            loss = cross_entropy(logits, torch.full((len(inputs),), self.target_label, device=model.device))
            return torch.autograd.grad(loss, free)[0].cpu()

    def _repaired(self, rehearsed: Rehearsed, resources: AttackerResources, seed: int) -> Iterator[Victim]:
        """The surrogate after ever more steps of the defence's objective; nothing where there is no such thing."""
        victim, reserve = copy.deepcopy(rehearsed.undefended), rehearsed.reserve
        sgd = torch.optim.SGD(victim.parameters(), lr=self.repair_rate, momentum=0.9)
        draw = generator(seed, "repair")
        while resources.defence is not None:
            rows = torch.randint(len(reserve), (self.batch_size,), generator=draw)
            with torch.random.fork_rng():  # a victim that augments draws from the global generator
                torch.manual_seed(derive(seed, f"augmentation {rows.tolist()}"))
                loss = resources.defence.objective(victim.train(), _moved(reserve[rows], victim))
            if loss is None:
                return
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            yield victim.eval()


class _Answered:
    """Rows that carry the trigger, and the answer that the attacker wants."""

    def __init__(self, base: Examples, trigger: Perturbation, target_label: int) -> None:
        self.base, self.trigger, self.target_label = base, trigger, target_label

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, indices: Tensor) -> Batch:
        batch = self.base[indices]
        return Batch(self.trigger(batch.inputs, indices, 0), torch.full_like(batch.labels, self.target_label), indices)


def _moved(batch: Batch, victim: Victim) -> Batch:
    return Batch(batch.inputs.to(victim.device), batch.labels.to(victim.device), batch.rows)
