"""What both sides bring to a run, and the barrier between them: who may see what is decided here and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from testbed.api import (
    Attack,
    AttackerResources,
    Batch,
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
)
from testbed.artefact import SharedFit, shared_poison
from testbed.data.overlay import Poisoned, anonymous, counted, poisoned
from testbed.fit import Settings, placed
from testbed.identity import derive, describe, examples_digest, key, sources
from testbed.language import Judge, TuningAttack
from testbed.pipeline.guard import blamed, require_method
from testbed.pipeline.judging import check_judge, check_wanted
from testbed.pipeline.manifest import Delivery, manifest_of, part_named
from testbed.record import Workspace
from testbed.replay import row_digests
from testbed.target import check_trial, target_of
from testbed.visibility import Visible, require_visible

Model = Callable[[Task], Victim]


class Attacked(NamedTuple):
    """An attack as only the pipeline knows it; `received` alone is what everybody else gets."""

    poison: Poison
    mixed: Poisoned
    received: Examples
    exams: dict[str, Poison]
    backdoored: bool
    visible: Visible | None = None


@dataclass(frozen=True)
class Scene:
    """One data set, one model, one attack, one seed, and of a targeted attack one trial.

    `defence` is for attackers who adapt, and for nobody else.
    """

    data: Splits
    model: Model
    attack: Attack
    trainer: Settings
    seed: int
    outputs: Path
    workspace: Workspace
    judge: Judge | None = None
    draw: int = 0
    trial: int = 0
    defence: Defence | None = None

    def fresh(self) -> Victim:
        """The victim that training starts from, always the same one for the same seed: untrained, or pretrained."""
        return self._begun(derive(self.seed, "initialisation"))

    def untrained(self, seed: int | None = None) -> Victim:
        """The same before any pretraining."""
        seed = derive(self.seed, "initialisation") if seed is None else seed
        return _fresh(self.model, self.data.task, seed, self.trainer)

    def _begun(self, seed: int) -> Victim:
        untrained = self.untrained(seed)
        pretraining = getattr(untrained, "pretraining", None)
        if pretraining is None or "pretraining" not in self.data.pools:
            return untrained
        settings = replace(pretraining, accelerator=self.trainer.accelerator)
        settings.check(untrained, name="model.pretraining")
        shared = SharedFit(
            self.outputs, settings, derive(seed, "pretraining"), self.workspace, backdoored=False, role="pretrained"
        )
        return shared(untrained, self.data.pools["pretraining"])

    @cached_property
    def attacker(self) -> AttackerResources:
        """The attacker sees the clean training rows and trains surrogates of its own."""
        return self.attacker_of(self.data.train)

    @property
    def attacker_seed(self) -> int:
        """A draw of the attack is one of what is fine-tuned on; a backdoor that is planted before that stays the same one."""
        drawn = f", draw {self.draw}" if self.draw and isinstance(self.attack, TuningAttack) else ""
        return derive(self.seed, f"attack{drawn}{f', trial {self.trial}' if self.trial else ''}")

    @property
    def target(self) -> Batch | None:
        """The one test row that an attack on a row is made for."""
        return target_of(self.attack, self.data.test, self.attacker_seed)

    @property
    def known_defence(self) -> Defence | None:
        """What an adaptive attacker knows of the defence, all of it; others know nothing."""
        return copy.deepcopy(self.defence) if self.attack.adaptive else None

    def attacker_of(self, train: Examples) -> AttackerResources:
        """What an attacker of these rows has; its surrogates are marked as backdoored, for it may rehearse its attack."""
        seed = self.attacker_seed
        own = derive(self.seed, "attack") if self.trial else seed  # one who has many targets trains a clean surrogate once
        fit = behind_a_wall(SharedFit(self.outputs, self.trainer, derive(own, "fit"), self.workspace, backdoored=True))
        surrogate = maker(self, derive(own, "surrogate"))
        if not self.attack.uses_surrogate:
            fit = surrogate = _undeclared
        shots = self.data.pools.get("shots")
        auxiliary = None if shots is None else anonymous(shots)
        facts = (self.data.task, anonymous(train), surrogate, fit, seed)
        return AttackerResources(*facts, auxiliary=auxiliary, defence=self.known_defence, target=self.target)

    def defender(self, received: Examples, backdoored: bool, flags: Tensor | None = None) -> DefenderResources:
        """The defender sees rows as received and its reserve; with `flags` bool (n,), an oracle's answers too."""
        fit = behind_a_wall(self.fit(backdoored))
        fresh = maker(self)
        facts = (self.data.task, received, anonymous(self.data.reserve), fresh, fit, derive(self.seed, "defence"))
        return DefenderResources(*facts) if flags is None else OracleResources(*facts, poisoned=flags)

    def defender_of(self, attacked: Attacked, method: Any) -> DefenderResources:
        """What this method may see of an attack, once it has agreed to work with it."""
        require_method(method)
        resources = self.defender(attacked.received, attacked.backdoored, attacked.mixed.flags if method.oracle else None)
        with component("defence" if isinstance(method, Defence) else "detector"), blamed(method):
            method.check(replace(resources, fresh=maker(self, untrained=True)))
        return resources

    def fit(self, backdoored: bool, *methods: Any, role: str | None = None) -> SharedFit:
        """Training of victims; `methods` are those that take part in it, `role` what the run calls the victim."""
        seed = derive(self.seed, "training")
        validation = self.data.validation if role is not None else None
        return SharedFit(self.outputs, self.trainer, seed, self.workspace, backdoored, methods, validation, role)

    def attacked(self) -> Attacked:
        """Check trainer, model, judge and attack, let it poison, and deliver the rows."""
        check_judge(self.judge, self.attack, self.data.task)
        self.trainer.check()  # before a victim is placed on a device that may not be there
        untrained = self.untrained()
        self.trainer.check(untrained)
        check_trial(self.attack, self.trial)
        with component("attack"), blamed(self.defence, only_its_own=True):
            self.attack.check(self.attacker)
            poison = self._poison()
            exams = self._exams(replace(self.attacker, poison=poison))
            seen = require_visible(untrained, exams)
        check_wanted(self.judge, self.attack, exams)
        mixed = poisoned(self.data.train, poison, derive(self.seed, "delivery"))
        backdoored = len(poison.indices) > 0 or self.attack.controls_training
        return Attacked(poison, mixed, anonymous(mixed.examples), exams, backdoored, seen)

    def _poison(self) -> Poison:
        """The attacker's rows: crafted once for this data, attack and seed, whatever the defence unless they depend on it."""
        named = self._poison_key
        return shared_poison(self.attack, lambda: self.attack.poison(self.attacker), self.outputs, named, self.workspace)

    @property
    def _poison_key(self) -> str:
        auxiliary, target = self.data.pools.get("shots"), self.target
        return key(
            data=examples_digest(self.data.train),
            auxiliary=None if auxiliary is None else examples_digest(auxiliary),
            attack=describe(self.attack),
            seed=self.attacker_seed,
            surrogate=[describe(self.model), describe(self.trainer)] if self.attack.uses_surrogate else None,
            defence=describe(self.known_defence),
            sources=sources(self.attack, self.model if self.attack.uses_surrogate else None, self.known_defence),
            **({} if target is None else {"target": row_digests(target)}),
        )

    def _exams(self, attacker: AttackerResources) -> dict[str, Poison]:
        return self.attack.triggered_tests(anonymous(self.data.test), attacker)

    def undefended(self, attacked: Attacked) -> tuple[Victim, Attacked]:
        """The victim of the attack alone, bare, as it reaches everybody else; and the attack, examined as this victim allows.

        An attacker who controls training sets its exams anew after it: its trigger may have been learnt there.
        """
        if not self.attack.controls_training:
            trained = self.fit(attacked.backdoored, role="undefended")(self.fresh(), attacked.received)
            return self.tampered(trained.bare()), attacked
        attacker = replace(self.attacker, positions=attacked.mixed.positions)
        wrapped = self.attack.during_training(self.fresh(), attacker)
        trained = self.fit(attacked.backdoored, self.attack, role="undefended")(wrapped, attacked.received)
        with component("attack"):
            exams = self._exams(replace(attacker, poison=attacked.poison, trained=copy.deepcopy(trained)))
        return trained.bare(), attacked._replace(exams=exams)

    def tampered(self, victim: Victim) -> Victim:
        """What the attacker makes of a trained model by editing it; mostly nothing."""
        return self.attack.tamper(victim, self.attacker)

    def clean_twin(self) -> Victim:
        """The same seed, model and order, no poison."""
        return self.fit(False, role="clean_twin")(self.fresh(), anonymous(self.data.train))

    def budget(self, attacked: Attacked) -> tuple[dict[str, Any], dict[str, int]]:
        """What the attacker really changed, measured instead of believed: rates of the rows trained on."""
        poison, total = attacked.poison, len(attacked.mixed.source)
        count, changed, cover = counted(self.data.train, poison)
        asked = getattr(self.attack, "poison_rate", None) if len(poison.indices) else 0.0
        rate = {"poison_rate_asked": asked, "poison_rate_reached": count / total, "poison_rate_changed": changed / total}
        rate |= {"targeted": True} if self.attack.targeted else {}
        counts = {"poisoned": count, "changed": changed, "trained_on": total}
        counts |= {"left_out": self.data.left_out} if self.data.left_out else {}
        if attacked.visible is not None:
            rate["trigger_visible"], counts["trigger_visible"] = attacked.visible
        if poison.cover is not None:
            rate["cover_rate_reached"], counts["cover"] = cover / total, cover
        return rate, counts

    def manifest(self, attacked: Attacked, reading: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Which rows were poisoned and how: what defenders never receive. The rows that are replaced are kept as they were.

        `reading` is how a chat model reads conversations.
        """
        facts = (self.data.train, attacked.poison, attacked.mixed, attacked.received, derive(self.seed, "delivery"))
        told = {"stored": f"poison/{self._poison_key}", "backdoored": attacked.backdoored, "model": reading or {}}
        return manifest_of(self, Delivery(*facts, part_named(self), **told))


def acts_in_training(defence: Defence) -> bool:
    """Whether a defence needs a say before or during training."""
    stages = ("before_training", "during_training")
    return any(getattr(type(defence), stage) is not getattr(Defence, stage) for stage in stages)


def _fresh(model: Model, task: Task, seed: int, trainer: Settings) -> Victim:
    with component("model"), torch.random.fork_rng():
        torch.manual_seed(seed)
        return placed(model(task), trainer)


def maker(scene: Scene, seed: int | None = None, *, untrained: bool = False) -> Callable[[], Victim]:
    """A plain function that makes the victim which training starts from: no attribute of it leads to the scene.

    With `untrained` it is left as it is before any pretraining, for those who only look at it.
    """
    seed = derive(scene.seed, "initialisation") if seed is None else seed

    def fresh() -> Victim:
        return scene.untrained(seed) if untrained else scene._begun(seed)

    return fresh


def behind_a_wall(shared: SharedFit) -> Fit:
    """A plain function: methods train through it, and find no folder or clean rows among its attributes."""

    def fit(victim: Victim, examples: Examples, **options: Any) -> Victim:
        return shared(copy.deepcopy(victim), examples, **options)

    return fit


def _undeclared(*_: Any, **__: Any) -> Any:
    raise TypeError(
        "an attack that trains or asks a surrogate says so: `uses_surrogate = True`, for its poison then depends on it"
    )
