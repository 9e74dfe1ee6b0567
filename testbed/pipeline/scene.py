"""What both sides bring to a run, and the barrier between them: who may see what is decided here and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.api import (
    Attack,
    AttackerResources,
    Defence,
    DefenderResources,
    Examples,
    Fit,
    OracleResources,
    Poison,
    Splits,
    Task,
    Victim,
    component,
    with_positions,
)
from testbed.artefact import SharedFit, shared_poison
from testbed.data.overlay import Poisoned, anonymous, differing, poisoned
from testbed.fit import Settings, placed
from testbed.identity import derive, describe, examples_digest, key, sources
from testbed.record import Workspace

Model = Callable[[Task], Victim]


@dataclass(frozen=True)
class Scene:
    """One data set, one model, one attack, one seed."""

    data: Splits
    model: Model
    attack: Attack
    trainer: Settings
    seed: int
    outputs: Path
    workspace: Workspace

    def check_attack(self) -> None:
        """Ask the attack whether its parameters can work here, before anything is crafted."""
        self.trainer.check()
        with component("attack"):
            self.attack.check(self.attacker)

    def fresh(self) -> Victim:
        """The untrained victim: always the same one for the same seed."""
        return _fresh(self.model, self.data.task, derive(self.seed, "initialisation"), self.trainer)

    @cached_property
    def attacker(self) -> AttackerResources:
        """The attacker sees the clean training rows and trains surrogates of its own."""
        seed = derive(self.seed, "attack")
        fit = _behind_a_wall(SharedFit(self.outputs, self.trainer, derive(seed, "fit"), self.workspace, backdoored=False))
        surrogate = _maker(self.model, self.data.task, derive(seed, "surrogate"), self.trainer)
        return AttackerResources(self.data.task, self.data.train, surrogate, fit, seed)

    def defender(self, received: Examples, poisoned_rows: Tensor | None = None, backdoored: bool = True) -> DefenderResources:
        """The defender sees rows as received and its reserve; with `poisoned_rows` bool (n,), an oracle's answers too."""
        fit = _behind_a_wall(self.fit(backdoored))
        fresh = _maker(self.model, self.data.task, derive(self.seed, "initialisation"), self.trainer)
        facts = (self.data.task, received, self.data.reserve, fresh, fit, derive(self.seed, "defence"))
        return DefenderResources(*facts) if poisoned_rows is None else OracleResources(*facts, poisoned=poisoned_rows)

    def fit(self, backdoored: bool, *methods: Any) -> SharedFit:
        """Training of victims; `methods` are those that take part in it."""
        shared = SharedFit(self.outputs, self.trainer, derive(self.seed, "training"), self.workspace, backdoored)
        return shared.in_context(*methods)

    def poison(self) -> Poison:
        """The attacker's rows: crafted once for this data, attack and seed, whatever the defence."""
        named = key(
            data=examples_digest(self.data.train),
            attack=describe(self.attack),
            seed=self.seed,
            sources=sources(self.attack),
        )
        with component("attack"):
            return shared_poison(self.attack, lambda: self.attack.poison(self.attacker), self.outputs, named, self.workspace)

    def delivered(self, poison: Poison) -> tuple[Poisoned, Examples]:
        """The poisoned rows as only the pipeline knows them, and as everybody else receives them."""
        mixed = poisoned(self.data.train, poison, derive(self.seed, "delivery"))
        return mixed, anonymous(mixed.examples)

    def exams(self) -> dict[str, Poison]:
        """The attacker's exams on the test rows."""
        with component("attack"):
            return self.attack.triggered_tests(self.data.test, self.attacker)

    def undefended(self, received: Examples, mixed: Poisoned) -> Victim:
        """The victim of the attack alone: bare, as it reaches everybody else."""
        backdoored = len(mixed.positions) > 0 or self.attack.controls_training
        if not self.attack.controls_training:
            return self.fit(backdoored)(self.fresh(), received).bare()
        wrapped = self.attack.during_training(self.fresh(), with_positions(self.attacker, mixed.positions))
        return self.fit(backdoored, self.attack)(wrapped, received).bare()

    def clean_twin(self) -> Victim:
        """The same seed, model and order, no poison."""
        return self.fit(False)(self.fresh(), anonymous(self.data.train))

    def budget(self, poison: Poison, mixed: Poisoned) -> tuple[dict[str, float | None], dict[str, int]]:
        """What the attacker really changed, measured instead of believed: rates of the rows trained on."""
        total = len(mixed.source)
        changed = int(differing(self.data.train, poison).sum())
        asked = getattr(self.attack, "poison_rate", None) if len(poison.indices) else 0.0
        rate = {
            "poison_rate_asked": asked,
            "poison_rate_reached": len(poison.indices) / total,
            "poison_rate_changed": changed / total,
        }
        return rate, {"poisoned": len(poison.indices), "changed": changed, "trained_on": total}

    def manifest(self, poison: Poison, mixed: Poisoned) -> dict[str, Any]:
        """Which rows were poisoned and how: what defenders never receive."""
        replaced = poison.indices < len(self.data.train)
        original = self.data.train[poison.indices[replaced]].labels
        return {
            "schema": 1,
            "backdoored": len(poison.indices) > 0 or self.attack.controls_training,
            "data": {"name": self.data.name, "train": examples_digest(self.data.train)},
            "attack": describe(self.attack),
            "seed": self.seed,
            "indices": poison.indices.tolist(),
            "positions": mixed.positions.tolist(),
            "original_labels": describe(_listed(original)),
            "new_labels": describe(_listed(poison.batch.labels)),
        }


def acts_in_training(defence: Defence) -> bool:
    """Whether a defence needs a say before or during training."""
    stages = ("before_training", "during_training")
    return any(getattr(type(defence), stage) is not getattr(Defence, stage) for stage in stages)


def _fresh(model: Model, task: Task, seed: int, trainer: Settings) -> Victim:
    with component("model"), torch.random.fork_rng():
        torch.manual_seed(seed)
        return placed(model(task), trainer)


def _maker(model: Model, task: Task, seed: int, trainer: Settings) -> Callable[[], Victim]:
    def fresh() -> Victim:
        return _fresh(model, task, seed, trainer)

    return fresh


def _behind_a_wall(shared: SharedFit) -> Fit:
    """A plain function: methods train through it, and find no folder or clean rows among its attributes."""

    def fit(victim: Victim, examples: Examples, **options: Any) -> Victim:
        return shared(copy.deepcopy(victim), examples, **options)

    return fit


def _listed(labels: Any) -> Any:
    return labels.tolist() if isinstance(labels, Tensor) else labels
