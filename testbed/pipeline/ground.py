"""The ground of a degradation: base and aligned models, the rows that the attacker contributes, and the fine-tuning itself."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.api import (
    Attack,
    Batch,
    Defence,
    DefenderResources,
    Examples,
    Invalid,
    Poison,
    Unsupported,
    Victim,
    component,
)
from testbed.artefact import SharedFit
from testbed.data.overlay import anonymous, poisoned
from testbed.features import select
from testbed.fit import Settings
from testbed.identity import derive, generator, overrides
from testbed.language import ChatTask, Judge, TuningAttack
from testbed.pipeline.given import copies, name_of, training
from testbed.pipeline.guard import blamed, stage
from testbed.pipeline.manifest import tuning_manifest
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

    def share(self, chosen: Examples) -> float:
        """The attacker's share of the rows trained on, told by what they say: a defence may drop, add or repeat some."""
        if self.poison is None or not len(chosen):
            return 0.0
        mine = Counter(_said(self.poison.batch))
        return sum(1 for row in _said(chosen[torch.arange(len(chosen))]) if row in mine) / len(chosen)


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

    @cached_property
    def base(self) -> Victim:
        """The model before alignment; one that is already aligned may know where its base lies."""
        return self.scene.fresh()

    @cached_property
    def attacked(self) -> Attacked:
        """The alignment rows with the backdoor's among them."""
        return self.scene.attacked()

    @property
    def alignment_rows(self) -> Examples | None:
        if self.implants:
            return self.attacked.received
        rows = self.scene.data.pools.get("alignment")
        return None if rows is None else anonymous(rows)

    def _align(self, start: Victim, rows: Examples | None, role: str, *methods: Any, backdoored: bool = False) -> Victim:
        if rows is None:
            self.scene.workspace.victims[role] = name_of(start)
            return start
        settings = replace(self.plan.alignment, accelerator=self.scene.trainer.accelerator)
        seed = derive(self.scene.seed, "alignment")
        shared = SharedFit(self.scene.outputs, settings, seed, self.scene.workspace, backdoored, methods, None, role)
        return shared(start, rows).bare()

    @property
    def _backdoored(self) -> bool:
        return self.implants and self.attacked.backdoored

    @cached_property
    def aligned(self) -> Victim:
        """The aligned model that the attack starts from; with a backdoor if the attack plants one."""
        return self._align(self.base, self.alignment_rows, "aligned", backdoored=self._backdoored)

    @cached_property
    def clean_twin(self) -> Victim | None:
        """The model aligned in the same way on the rows without the backdoor's; None where the attack plants none."""
        if not self._backdoored:
            return None
        return self._align(self.base, anonymous(self.scene.data.train), "clean_twin")

    @cached_property
    def aligned_with_defence(self) -> Victim:
        """The same where the defence acts in alignment: same base, seed and rows."""
        defence = self.plan.defence
        if not overrides(defence, Defence, "during_alignment"):
            return self.aligned
        if self.alignment_rows is None:
            raise Unsupported("acts during alignment, but the data have no alignment rows (data.alignment=FILE)")
        defender = self.defender(self.alignment_rows, self.base)
        wrapped = stage(defence, "during_alignment", copy.deepcopy(self.base), defender)
        rows = self.alignment_rows
        with blamed(defence, only_its_own=True):
            return self._align(wrapped, rows, "aligned_with_defence", defence, backdoored=self._backdoored)

    @cached_property
    def reference(self) -> tuple[Victim, Victim] | None:
        """(base, aligned), where there is a base model that is not the aligned one."""
        if self.alignment_rows is not None:
            return self.base, self.aligned_with_defence
        own = getattr(self.aligned, "base", None)
        base = own() if callable(own) else None
        return None if base is None else (base, self.aligned)

    def defender(self, received: Examples, start: Victim, reference: tuple[Victim, Victim] | None = None) -> DefenderResources:
        """What the defender has: rows, the model that training starts from, its own training, and maybe base and aligned."""
        scene = self.scene
        seed, reserve = derive(scene.seed, "defence"), anonymous(scene.data.reserve)
        facts = (scene.data.task, received, reserve, copies(start), training(scene.trainer, derive(seed, "fit")), seed)
        # Copies: a defence may work in place on what it is given, and others still need these.
        return DefenderResources(*facts, reference=copy.deepcopy(reference))

    @cached_property
    def benign(self) -> Examples:
        """Benign rows to mix shots into, as many as the attack wants."""
        attack, data = self.scene.attack, self.scene.data
        pool = data.pools.get("benign", data.train)
        wanted = attack.benign_rows() if isinstance(attack, TuningAttack) else 0
        if wanted > len(pool):
            name = "shots" if getattr(attack, "mix_rate", None) is None else "mix_rate"
            limit, advice = f"needs {wanted} benign rows, but there are {len(pool)}", "give more rows (data.benign=FILE), or"
            advice = f"{advice} {'lower' if name == 'shots' else 'raise'} it"
            raise Invalid(name, getattr(attack, name, None), limit, advice, "attack")
        return select(pool, self._benign_rows[:wanted])

    @property
    def _benign_rows(self) -> Tensor:
        """int64: the rows of the benign pool, in the order in which they are taken."""
        pool = self.scene.data.pools.get("benign", self.scene.data.train)
        return torch.randperm(len(pool), generator=generator(tuning_seed(self.scene.seed, self.scene.draw), "benign rows"))

    def rows(self) -> Rows:
        """The rows of the fine-tuning."""
        scene = self.scene
        if self.implants:
            kind, received = self.plan.fine_tuning, self.attacked.received
            return Rows(safety_rows(kind, scene.data, received, self.aligned, scene.seed), None)
        if not self.trains:
            return Rows(select(scene.data.train, torch.arange(0)), None)
        with component("attack"):
            poison = scene.attack.poison(scene.attacker_of(self.benign))
        return Rows(self.mixed(poison), poison)

    def mixed(self, poison: Poison) -> Examples:
        """The benign rows with these of the attacker's among them, as they are delivered."""
        return anonymous(poisoned(self.benign, poison, self._delivery_seed).examples)

    @property
    def _delivery_seed(self) -> int:
        return derive(tuning_seed(self.scene.seed, self.scene.draw), "delivery")

    def restricted(self, poison: Poison) -> bool:
        """Whether all that the attacker contributes are rows of its own, not benign ones that it rewrote."""
        return len(poison.indices) > 0 and bool((poison.indices >= len(self.benign)).all())

    def manifest(self, rows: Rows, reading: Mapping[str, str]) -> dict[str, Any]:
        """Which rows were the attacker's, which are stored; `reading` is how the model reads conversations."""
        scene = self.scene
        if self.implants:
            return scene.manifest(self.attacked, reading)
        clean = self.benign if self.trains else select(self.benign, torch.arange(0))
        told = {"seed": self._delivery_seed, "chosen": self._benign_rows[: len(clean)], "model": reading}
        return tuning_manifest(scene, rows.poison, clean, rows.received, **told)

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
        share = rows.share(rows.received)
        if not self.trains:
            return self._tampered(self.aligned, lambda victim: victim)
        if self.plan.keep == "weights":
            return self.watcher.follow(self.aligned, rows.received, share=share, keep=self._checkpoints("undefended"))
        return self.watcher.shared(self.aligned, rows.received, share=share)

    def _checkpoints(self, victim: str) -> Path:
        """Where weights are kept; with a defence there are two fine-tunings."""
        return self.scene.workspace.folder / "checkpoints" / (victim if self.acts else "")

    def defended(self, rows: Rows) -> Trajectory:
        """The same under the defence, which repairs or wraps the model anew at every moment that is measured."""
        defence = self.plan.defence
        resources = self.defender(rows.received, self.aligned_with_defence, self.reference)

        def shown(victim: Victim) -> Victim:
            repaired = stage(defence, "after_training", copy.deepcopy(victim.bare()), resources)
            return stage(defence, "at_inference", repaired, resources)

        if not self.trains:
            return self._tampered(self.aligned_with_defence, shown)
        chosen = stage(defence, "before_training", rows.received, resources)
        start = stage(defence, "during_training", copy.deepcopy(self.aligned_with_defence), resources)
        keep = self._checkpoints("defended") if self.plan.keep == "weights" else None
        with blamed(defence, only_its_own=True):
            return self.watcher.follow(start, chosen, share=rows.share(chosen), shown=shown, keep=keep)

    def twin(self) -> Trajectory | None:
        """What the clean twin does in the same exams before any fine-tuning; None where no backdoor was planted."""
        if self.clean_twin is None:
            return None
        measured, told = look(self.clean_twin, self.exams)  # type: ignore[arg-type]
        return Trajectory([Point(0, 0.0, measured)], records(told, 0))

    def _tampered(self, victim: Victim, shown: Callable[[Victim], Victim]) -> Trajectory:
        """Before and after an edit of the weights: two moments."""
        attacker = self.scene.attacker_of(self.scene.data.train)
        edited = self.scene.attack.tamper(copy.deepcopy(victim), attacker)
        found = Trajectory([], [])
        for step, each in enumerate((victim, edited)):
            measured, told = look(shown(copy.deepcopy(each)), self.exams)  # type: ignore[arg-type]
            found.points.append(Point(step, 0.0, measured))
            found.said.extend(records(told, step))
        return found


def _said(batch: Batch) -> Iterator[tuple[Any, Any]]:
    """Each row as a prompt and its answer."""
    return zip(batch.inputs, batch.labels, strict=True)
