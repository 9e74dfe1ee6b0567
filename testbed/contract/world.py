"""A small world in which a method is tried: the threat model of a run, cut short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# Lightning draws from Python's global generator when it is first imported: better now than while a method is watched.
import testbed.training  # noqa: F401
from testbed.api import Attack, AttackerResources, DefenderResources, Examples, OracleResources, Poison, Splits, Task, Victim
from testbed.data.overlay import Poisoned, anonymous, poisoned
from testbed.features import all_labels, select
from testbed.fit import Settings, fit, placed
from testbed.identity import derive

EPOCHS = 2
ROWS_PER_CLASS, TESTS_PER_CLASS = 20, 4
LENGTHS = ("epochs", "steps", "iterations", "passes")
"""Parameters with these names, or names that end in them, say how long a method works and not what it does: they are cut."""


@dataclass(frozen=True)
class World:
    """A data set, a model and an attack, all cut short: what holds for a minute's work holds for an hour's.

    `data` are some rows a class and the whole reserve (`small`), training is `EPOCHS` long, on the CPU and on one thread.
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

    def fit(self, victim: Victim, examples: Examples, *, epochs: int | None = None, **options: Any) -> Victim:
        """`api.Fit`, for at most `EPOCHS` epochs."""
        given = {name: value for name, value in options.items() if value is not None}
        most = min(EPOCHS, epochs or EPOCHS)
        return fit(victim, examples, settings=self.settings, seed=derive(self.seed, "training"), epochs=most, **given)[0]

    def attacker(self, train: Examples) -> AttackerResources:
        """What an attacker gets."""
        return AttackerResources(self.data.task, train, self.fresh, self.fit, derive(self.seed, "attack"))

    def defender(self, received: Examples, poisoned_rows: Tensor | None = None) -> DefenderResources:
        """What a defender gets; with `poisoned_rows`, an oracle."""
        facts = (self.data.task, received, self.data.reserve, self.fresh, self.fit, derive(self.seed, "defence"))
        return DefenderResources(*facts) if poisoned_rows is None else OracleResources(*facts, poisoned=poisoned_rows)

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


def small(data: Splits) -> Splits:
    """The first `ROWS_PER_CLASS` training rows and `TESTS_PER_CLASS` test rows of each class, and the whole reserve."""
    return replace(data, train=_first(data.train, ROWS_PER_CLASS), test=_first(data.test, TESTS_PER_CLASS))


def _first(examples: Examples, per_class: int) -> Examples:
    labels = all_labels(examples)
    if not isinstance(labels, Tensor):
        return select(examples, torch.arange(min(len(examples), 10 * per_class)))
    rows = [(labels == label).nonzero().flatten()[:per_class] for label in labels.unique()]
    return select(examples, torch.cat(rows).sort().values)


def shortened(method: Any) -> Any:
    """The method, working for `EPOCHS` epochs, steps, iterations or passes at most."""
    if not is_dataclass(method):
        return method
    cut = {
        name: EPOCHS
        for name, value in vars(method).items()
        if name.endswith(LENGTHS) and isinstance(value, int) and not isinstance(value, bool) and value > EPOCHS
    }
    return replace(method, **cut) if cut else method  # type: ignore[type-var]
