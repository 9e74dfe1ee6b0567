"""The ground of a degradation: base and aligned models, the rows that the attacker contributes, and the fine-tuning itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from testbed.api import Attack, Defence, DefenderResources, Examples, Invalid, Poison, Unsupported, Victim, component
from testbed.artefact import SharedFit
from testbed.data.overlay import anonymous, poisoned
from testbed.features import select
from testbed.fit import Settings, fit
from testbed.identity import CANARY, derive, describe, examples_digest, generator, overrides, poison_digest
from testbed.language import ChatTask, Judge, TuningAttack
from testbed.pipeline.safety import safety_rows
from testbed.pipeline.scene import Attacked, Scene
from testbed.pipeline.watch import Trajectory, Watcher, records, tuning_seed
from testbed.trajectory import Exams, Point, look

STAGES = ("during_alignment", "before_training", "during_training", "after_training", "at_inference")
ASKED = ("restricted", "open", "over_refusal", "held_out_topics")


@dataclass(frozen=True)
class Plan:
    """What is done besides the attack: see `degrade`."""

    defence: Defence
    alignment: Settings
    judge: Judge
    fine_tuning: str
    measure_at: Sequence[int] | None
    keep: str
    forward: bool
    new_task: bool


@dataclass(frozen=True)
class Rows:
    """What is fine-tuned on; `poison` are the attacker's among them, None where a model with a backdoor is tuned further."""

    received: Examples
    poison: Poison | None

    @property
    def share(self) -> float:
        """The attacker's share of the rows."""
        return 0.0 if self.poison is None or not len(self.received) else len(self.poison.indices) / len(self.received)


@dataclass(frozen=True)
class Ground:
    """One data set, one chat model, one attack, one defence, one seed."""

    scene: Scene
    plan: Plan

    @property
    def toy(self) -> bool:
        task = self.scene.data.task
        return isinstance(task, ChatTask) and task.toy

    @property
    def trains(self) -> bool:
        """Whether anything is fine-tuned: not where the attack edits weights."""
        return not overrides(self.scene.attack, Attack, "tamper")

    @property
    def implants(self) -> bool:
        """Whether the attack plants a backdoor during alignment."""
        return self.trains and not isinstance(self.scene.attack, TuningAttack)

    @property
    def acts(self) -> bool:
        """Whether the defence does anything at any stage."""
        return overrides(self.plan.defence, Defence, *STAGES)

    def check(self) -> None:
        """Refuse what cannot work, before anything is trained."""
        data = self.scene.data
        if not set(ASKED) & set(data.exams):
            raise Invalid("restricted", None, "there is nothing to ask the model", "name restricted prompts", "data")
        self.scene.check_judge()
        self.scene.trainer.check()
        with component("alignment"):
            self.plan.alignment.check()
        with component("attack"):
            self.scene.attack.check(self.scene.attacker_of(data.train if self.implants else self._benign))
        with component("defence"):
            self.plan.defence.check(self.defender(data.train, self._promised))
        if self.acts and self.scene.attack.controls_training:
            raise Unsupported("the attacker controls training, so that there is no training for this defence to act in")

    @property
    def _promised(self) -> tuple[Victim, Victim] | None:
        """Where there will be a reference, untrained models in its place."""
        untrained = self.scene.untrained()
        known = "alignment" in self.scene.data.pools or getattr(untrained, "base_path", None) is not None
        return (untrained, untrained) if known else None

    @cached_property
    def base(self) -> Victim:
        """The model before alignment; one that is already aligned may know where its base lies."""
        return self.scene.fresh()

    @cached_property
    def attacked(self) -> Attacked:
        """The alignment rows with the backdoor's among them."""
        return self.scene.attacked()

    @property
    def _alignment_rows(self) -> Examples | None:
        if self.implants:
            return self.attacked.received
        rows = self.scene.data.pools.get("alignment")
        return None if rows is None else anonymous(rows)

    def _align(self, start: Victim, role: str, *methods: Any) -> Victim:
        rows = self._alignment_rows
        if rows is None:
            return start
        settings = replace(self.plan.alignment, accelerator=self.scene.trainer.accelerator)
        seed = derive(self.scene.seed, "alignment")
        shared = SharedFit(self.scene.outputs, settings, seed, self.scene.workspace, self.implants, methods, None, role)
        return shared(start, rows).bare()

    @cached_property
    def aligned(self) -> Victim:
        """The aligned model that the attack starts from; with a backdoor if the attack plants one."""
        return self._align(self.base, "aligned")

    @cached_property
    def aligned_with_defence(self) -> Victim:
        """The same where the defence acts in alignment: same base, seed and rows."""
        defence = self.plan.defence
        if not overrides(defence, Defence, "during_alignment"):
            return self.aligned
        if self._alignment_rows is None:
            raise Unsupported("acts during alignment, but the data have no alignment rows (data.alignment=FILE)")
        wrapped = defence.during_alignment(copy.deepcopy(self.base), self.defender(self._alignment_rows, None))
        return self._align(wrapped, "aligned_with_defence", defence)

    @cached_property
    def reference(self) -> tuple[Victim, Victim] | None:
        """(base, aligned), where there is a base model that is not the aligned one."""
        if self._alignment_rows is not None:
            return self.base, self.aligned_with_defence
        own = getattr(self.aligned, "base", None)
        base = own() if callable(own) else None
        return None if base is None else (base, self.aligned)

    def defender(self, received: Examples, reference: tuple[Victim, Victim] | None) -> DefenderResources:
        """What the defender has: its own training is not shared with anybody's."""
        seed = derive(self.scene.seed, "defence")

        def trained(victim: Victim, examples: Examples, **options: Any) -> Victim:
            chosen = {name: value for name, value in options.items() if value is not None}
            return fit(copy.deepcopy(victim), examples, settings=self.scene.trainer, seed=derive(seed, "fit"), **chosen)[0]

        reserve = anonymous(self.scene.data.reserve)
        facts = (self.scene.data.task, received, reserve, self.scene.fresh, trained, seed)
        return DefenderResources(*facts, reference=reference)

    @cached_property
    def _benign(self) -> Examples:
        """Benign rows to mix shots into, as many as the attack wants."""
        attack, data = self.scene.attack, self.scene.data
        pool = data.pools.get("benign", data.train)
        wanted = attack.benign_rows() if isinstance(attack, TuningAttack) else 0
        if wanted > len(pool):
            limit = f"mixing needs {wanted} benign rows, but there are {len(pool)}"
            raise Invalid("mix_rate", getattr(attack, "mix_rate", None), limit, "raise it, or give more rows", "attack")
        order = torch.randperm(len(pool), generator=generator(tuning_seed(self.scene.seed, self.scene.draw), "benign rows"))
        return select(pool, order[:wanted])

    def rows(self) -> Rows:
        """The rows of the fine-tuning."""
        scene = self.scene
        if self.implants:
            kind, received = self.plan.fine_tuning, self.attacked.received
            return Rows(safety_rows(kind, scene.data, received, self.aligned, scene.seed), None)
        if not self.trains:
            return Rows(select(scene.data.train, torch.arange(0)), None)
        with component("attack"):
            poison = scene.attack.poison(scene.attacker_of(self._benign))
        mixed = poisoned(self._benign, poison, derive(tuning_seed(scene.seed, scene.draw), "delivery"))
        return Rows(anonymous(mixed.examples), poison)

    def manifest(self, rows: Rows) -> dict[str, Any]:
        """Which rows were the attacker's."""
        if self.implants:
            return self.scene.manifest(self.attacked)
        found = {"schema": 1, "canary": CANARY, "attack": describe(self.scene.attack), "seed": self.scene.seed}
        found |= {"draw": self.scene.draw, "trained_on": len(rows.received), "rows": examples_digest(rows.received)}
        if rows.poison is not None:
            found |= {"shots": len(rows.poison.indices), "sha256": poison_digest(rows.poison)}
        return found

    @cached_property
    def exams(self) -> Exams:
        """What is asked at every moment."""
        scene, attack = self.scene, self.scene.attack
        asked = {name: scene.data.exams[name] for name in ASKED if name in scene.data.exams}
        if isinstance(attack, TuningAttack) and overrides(attack, TuningAttack, "dressed") and "restricted" in asked:
            plain = asked["restricted"][torch.arange(len(asked["restricted"]))]
            asked["dressed"] = type(asked["restricted"])(attack.dressed(plain.inputs), plain.labels)  # type: ignore[call-arg]
        attackers = self.attacked.exams if self.implants else {}
        criterion = getattr(attack, "criterion", "matches")
        return Exams(asked, anonymous(scene.data.test), attackers, criterion, self.plan.judge)

    @cached_property
    def watcher(self) -> Watcher:
        scene = self.scene
        seed = tuning_seed(scene.seed, scene.draw)
        return Watcher(scene.trainer, seed, self.exams, scene.outputs, scene.workspace, self.plan.measure_at)

    def undefended(self, rows: Rows) -> Trajectory:
        """What the attack does to the aligned model."""
        if not self.trains:
            return self._tampered(lambda victim: victim)
        if self.plan.keep == "weights" and not self.acts:
            keep = self.scene.workspace.folder / "checkpoints"
            return self.watcher.follow(self.aligned, rows.received, share=rows.share, keep=keep)
        return self.watcher.shared(self.aligned, rows.received, share=rows.share)

    def defended(self, rows: Rows) -> Trajectory:
        """The same under the defence, which repairs or wraps the model anew at every moment that is measured."""
        defence, resources = self.plan.defence, self.defender(rows.received, self.reference)

        def shown(victim: Victim) -> Victim:
            repaired = defence.after_training(copy.deepcopy(victim.bare()), resources)
            return defence.at_inference(repaired, resources)

        if not self.trains:
            return self._tampered(shown)
        chosen = defence.before_training(rows.received, resources)
        start = defence.during_training(copy.deepcopy(self.aligned_with_defence), resources)
        keep = self.scene.workspace.folder / "checkpoints" if self.plan.keep == "weights" else None
        share = rows.share * len(rows.received) / max(len(chosen), 1)
        return self.watcher.follow(start, chosen, share=share, shown=shown, keep=keep)

    def _tampered(self, shown: Callable[[Victim], Victim]) -> Trajectory:
        """Before and after an edit of the weights: two moments."""
        attacker = self.scene.attacker_of(self.scene.data.train)
        edited = self.scene.attack.tamper(copy.deepcopy(self.aligned_with_defence), attacker)
        found = Trajectory([], [])
        for step, victim in enumerate((self.aligned_with_defence, edited)):
            measured, told = look(shown(copy.deepcopy(victim)), self.exams)  # type: ignore[arg-type]
            found.points.append(Point(step, 0.0, measured))
            found.said.extend(records(told, step))
        return found
