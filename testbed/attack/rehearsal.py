"""An attack tried out by the attacker itself: on surrogates, and against the defence where that is known."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from testbed.api import (
    AttackerResources,
    Batch,
    Defence,
    DefenderResources,
    Examples,
    OracleResources,
    Poison,
    Victim,
    component,
)
from testbed.features import select
from testbed.identity import derive, generator, overrides


class Rehearsed(NamedTuple):
    """What came of a rehearsal: `defended` is None where no defence is known, `unseen` are clean rows that nobody met."""

    undefended: Victim
    defended: Victim | None
    reserve: Examples
    unseen: Examples


def rehearse(resources: AttackerResources, poison: Poison, share: float, seed: int) -> Rehearsed:
    """Train a surrogate on poisoned rows, and let every stage of the known defence act as it would in earnest.

    The attacker plays the defender with what is its own: of n clean rows round(share n) are the reserve, as many stay unseen,
    and neither is trained on; models and training are those of its surrogates. Which rows is drawn from `seed`.
    """
    train = resources.train
    free = torch.ones(len(train), dtype=torch.bool)
    free[poison.indices] = False
    order = torch.randperm(len(train), generator=generator(seed, "rehearsal"))
    spare = order[free[order]]
    reserve, unseen, rest = spare.tensor_split([round(share * len(train)), 2 * round(share * len(train))])
    received = Stamped(train, torch.cat([rest, poison.indices]).sort().values, poison)
    undefended = resources.fit(resources.fresh(), received)
    reserved = select(train, reserve)
    facts = (resources.task, received, reserved, resources.fresh, resources.fit, derive(seed, "defence"))
    known = resources.defence
    defender = DefenderResources(*facts)
    if known is not None and known.oracle:
        defender = OracleResources(*facts, poisoned=received.flags)
    defended = None if known is None else _defended(known, undefended, received, defender)
    return Rehearsed(undefended, defended, reserved, select(train, unseen))


def check_known(resources: AttackerResources, share: float) -> None:
    """The known defence's own check, with what it would meet in a rehearsal: raises what that raises, in the defence's name."""
    if resources.defence is not None:
        reserve = select(resources.train, torch.arange(round(share * len(resources.train))))
        facts = (resources.task, resources.train, reserve, resources.fresh, resources.fit, derive(resources.seed, "defence"))
        with component("defence"):
            resources.defence.check(DefenderResources(*facts))


def _defended(defence: Defence, undefended: Victim, received: Examples, defender: DefenderResources) -> Victim:
    victim = copy.deepcopy(undefended)
    if overrides(defence, Defence, "before_training", "during_training"):
        chosen = defence.before_training(received, defender)
        victim = defender.fit(defence.during_training(defender.fresh(), defender), chosen)
    return defence.at_inference(defence.after_training(victim, defender), defender)


class Stamped:
    """The chosen rows of a data set, int64 (n,), with a poison of replaced rows in its place."""

    def __init__(self, base: Examples, rows: Tensor, poison: Poison) -> None:
        self.base, self.rows, self.poison = base, rows, poison
        self.workers = getattr(base, "workers", 0)
        place = torch.full((len(base),), -1)
        place[poison.indices] = torch.arange(len(poison.indices))
        self.place = place[rows]

    @property
    def flags(self) -> Tensor:
        """bool (n,): which rows are poisoned."""
        return self.place >= 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Batch:
        batch, place = self.base[self.rows[indices]], self.place[indices]
        own, labels, mine = self.poison.batch.inputs, batch.labels.clone(), place >= 0
        inputs = batch.inputs.to(torch.promote_types(batch.inputs.dtype, own.dtype), copy=True)
        inputs[mine] = own[place[mine]]
        labels[mine] = self.poison.batch.labels[place[mine]]
        return Batch(inputs, labels, indices)
