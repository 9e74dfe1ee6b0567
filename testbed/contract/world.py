"""A small world in which a method is tried: the threat model of a run, cut short."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# Lightning draws from Python's global generator when it is first imported: better now than while a method is watched.
import testbed.training  # noqa: F401
from testbed.api import (
    Attack,
    AttackerResources,
    DefenderResources,
    Examples,
    OracleResources,
    Poison,
    Splits,
    Task,
    Unreadable,
    Unsupported,
    Victim,
    component,
)
from testbed.data.overlay import Poisoned, anonymous, poisoned
from testbed.features import all_labels, select
from testbed.fit import Settings, fit, placed
from testbed.identity import derive
from testbed.language import refuses
from testbed.target import target_of

EPOCHS = 2
ROWS_PER_CLASS, TESTS_PER_CLASS = 20, 4
ROWS_PER_KIND, TESTS_PER_KIND = 40, 8
"""Of conversations, whose answers are of two kinds: refusals and others."""

LENGTHS = ("epochs", "steps", "iterations", "passes", "rounds", "restarts", "models", "candidates")
"""Parameters with these names, or names that end in them, say how long a method works and not what it does: they are cut."""


@dataclass(frozen=True)
class World:
    """A data set, a model and an attack, all cut short: what holds for a minute's work holds for an hour's.

    `data` are some rows a class and the whole reserve (`small`), training is `EPOCHS` long, on the CPU and on one thread.
    Nothing is pretrained.
    """

    data: Splits
    model: Callable[[Task], Victim]
    attack: Attack
    trainer: Settings
    seed: int

    @cached_property
    def settings(self) -> Settings:
        """How this world trains."""
        return replace(self.trainer, max_epochs=min(EPOCHS, self.trainer.max_epochs), accelerator="cpu", threads=1)

    def fresh(self, seed: int | None = None) -> Victim:
        """An untrained victim, the same one for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(derive(self.seed if seed is None else seed, "initialisation"))
            return placed(self.model(self.data.task), self.settings)

    def fit(
        self,
        victim: Victim,
        examples: Examples,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> Victim:
        """`api.Fit`, for at most `EPOCHS` epochs, or as few steps."""
        given = {name: value for name, value in options.items() if value is not None}
        given |= {"epochs": min(EPOCHS, epochs or EPOCHS)} if steps is None else {"steps": min(EPOCHS, steps)}
        return fit(victim, examples, settings=self.settings, seed=derive(self.seed, "training"), **given)[0]

    def misfit(self, *, attacked: bool = True) -> str:
        """Why the model cannot read these data, or (if `attacked`) the attack not poison them; '' where they fit.

        Raises:
            Invalid: a parameter of the model or the attack that cannot work here.
        """
        try:
            with component("model"):
                self.fresh()
            with component("attack"):
                if attacked:
                    self.attack.check(self.attacker(self.data.train))
        except (Unreadable, Unsupported) as reason:
            return str(reason)
        return ""

    @cached_property
    def shots(self) -> Examples | None:
        """The attacker's own rows, where the data have some."""
        own = self.data.pools.get("shots")
        return None if own is None else anonymous(own)

    @cached_property
    def reference(self) -> tuple[Victim, Victim] | None:
        """(base, aligned) of a chat: the untrained model, and what clean training makes of it."""
        if self.data.task.kind != "chat":
            return None
        return self.fresh(), self.fit(self.fresh(), anonymous(self.data.train)).bare()

    def attacker(self, train: Examples, attack: Attack | None = None) -> AttackerResources:
        """What an attacker gets, by this attack or by the world's own."""
        seed = derive(self.seed, "attack")
        facts = (self.data.task, train, self.fresh, self.fit, seed)
        return AttackerResources(*facts, auxiliary=self.shots, target=target_of(attack or self.attack, self.data.test, seed))

    def defender(self, received: Examples, poisoned_rows: Tensor | None = None) -> DefenderResources:
        """What a defender gets, models as copies; with `poisoned_rows`, an oracle."""
        facts = (self.data.task, received, self.data.reserve, self.fresh, self.fit, derive(self.seed, "defence"))
        reference = copy.deepcopy(self.reference)
        if poisoned_rows is None:
            return DefenderResources(*facts, reference=reference)
        return OracleResources(*facts, reference=reference, poisoned=poisoned_rows)

    @cached_property
    def poison(self) -> Poison:
        """The rows of the world's own attack."""
        return self.attack.poison(self.attacker(self.data.train))

    @cached_property
    def mixed(self) -> Poisoned:
        """The poisoned rows with their history, by which a method that looks where it should not gives itself away."""
        return poisoned(self.data.train, self.poison, derive(self.seed, "delivery"))

    @cached_property
    def victim(self) -> Victim:
        """A victim trained on the poisoned rows; callers copy it."""
        return self.fit(self.fresh(), anonymous(self.mixed.examples)).bare()


def small_world(parts: Mapping[str, Any], seed: int) -> World:
    """The world of these data, model, attack and trainer, its data cut short."""
    return World(small(parts["data"]), parts["model"], parts["attack"], parts["trainer"], seed)


def small(data: Splits) -> Splits:
    """Some training and test rows of each class, and of conversations of either kind of answer; all else is whole.

    Of a class the first rows are taken; of answers those that begin with other words by turns, so that no manner is left out.
    """
    train = _some(data.train, data.task, ROWS_PER_CLASS, ROWS_PER_KIND)
    return replace(data, train=train, test=_some(data.test, data.task, TESTS_PER_CLASS, TESTS_PER_KIND))


def _some(examples: Examples, task: Task, per_class: int, per_kind: int) -> Examples:
    labels = all_labels(examples)
    if isinstance(labels, Tensor):
        rows = [(labels == label).nonzero().flatten().tolist()[:per_class] for label in labels.unique()]
    else:
        refused = refuses(labels, getattr(task, "refusals", ()))
        rows = [_by_turns(kind.nonzero().flatten().tolist(), labels)[:per_kind] for kind in (refused, ~refused)]
    return select(examples, torch.tensor(sorted(row for kind in rows for row in kind), dtype=torch.int64))


def _by_turns(rows: Sequence[int], answers: Sequence[str]) -> list[int]:
    """The rows, those first before whose answer the fewest begin with the same word."""
    seen: Counter[str] = Counter()
    turns = []
    for row in rows:
        first = next(iter(answers[row].split()), "")
        turns.append((seen[first], row))
        seen[first] += 1
    return [row for _, row in sorted(turns)]


def spread(examples: Examples, most: int) -> Tensor:
    """int64 (n,): so many rows at most, from the first to the last."""
    count = min(most, len(examples))
    return torch.linspace(0, max(len(examples) - 1, 0), count).round().long()


def shortened(method: Any) -> Any:
    """The method and its parts, at work for `EPOCHS` epochs, steps, rounds and so on at most, or on as few models."""
    if not is_dataclass(method) or isinstance(method, type):
        return method
    cut = {name: EPOCHS for name, value in vars(method).items() if name.endswith(LENGTHS) and _long(name, value)}
    parts = {name: shortened(value) for name, value in vars(method).items() if is_dataclass(value)}
    cut |= {name: part for name, part in parts.items() if part is not getattr(method, name)}
    return replace(method, **cut) if cut else method  # type: ignore[type-var]


def _long(name: str, value: Any) -> bool:
    """Whether it is a number above `EPOCHS`; no number of candidates means all that there are."""
    if value is None:
        return name.endswith("candidates")
    return isinstance(value, int) and not isinstance(value, bool) and value > EPOCHS
