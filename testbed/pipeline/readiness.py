"""What a degradation needs, told before anything is trained."""

from __future__ import annotations

from testbed.api import Defence, Examples, Invalid, Unsupported, Victim, component
from testbed.identity import overrides
from testbed.pipeline.ground import ASKED, Ground
from testbed.pipeline.judging import check_judge
from testbed.pipeline.safety import require_safety_rows


def require_ready(ground: Ground) -> None:
    """Poison where there is something to plant, and refuse whatever cannot work.

    Raises:
        Invalid: a parameter, a row or a set of prompts that cannot be used.
        Unsupported: attack and defence do not go together.
    """
    scene, plan = ground.scene, ground.plan
    if not set(ASKED) & set(scene.data.exams):
        raise Invalid("restricted", None, "there is nothing to ask the model", "name restricted prompts", "data")
    if plan.measure_at is not None and min(plan.measure_at, default=0) < 0:
        raise Invalid("measure_at", list(plan.measure_at), "steps are counted from 0", "leave negative ones out")
    check_judge(scene.judge, scene.attack, scene.data.task)
    scene.trainer.check()
    plan.alignment.check(name="alignment")
    if ground.implants:
        ground.attacked  # noqa: B018 (poisoned now, so that whatever is wrong with that is told now)
        require_safety_rows(plan.fine_tuning, scene.data)
    else:
        with component("attack"):
            scene.attack.check(scene.attacker_of(scene.data.train))
            scene.attack.check(scene.attacker_of(ground.benign))
    untrained = scene.untrained()
    _require_defence(ground, untrained)
    _require_readable(ground, untrained)


def _require_defence(ground: Ground, untrained: Victim) -> None:
    defence, attack = ground.plan.defence, ground.scene.attack
    if defence.oracle:
        raise Unsupported("an oracle of poisoned rows has nothing to say where a model is fine-tuned")
    if ground.acts and attack.controls_training:
        raise Unsupported("the attacker controls training, so that there is no training for this defence to act in")
    if not ground.trains and overrides(defence, Defence, "before_training", "during_training"):
        raise Unsupported("the attack trains nothing, so that there is no training for this defence to act in")
    known = ground.alignment_rows is not None or getattr(untrained, "base_path", None) is not None
    resources = ground.defender(ground.scene.data.train, untrained, (untrained, untrained) if known else None)
    with component("defence"):
        defence.check(resources)


def _require_readable(ground: Ground, untrained: Victim) -> None:
    """Every prompt that will be read, by the name of its set and its row: hours of training may lie before it is asked."""
    data, check = ground.scene.data, getattr(untrained, "check_rows", None)
    if check is None:
        return
    sets: dict[str, Examples] = {"train": data.train, "reserve": data.reserve, **data.pools, **data.exams}
    for name, examples in sets.items():
        if name == "pretraining":
            continue
        try:
            check(examples)
        except Invalid as error:
            if error.component == "data":
                error.parameter = error.parameter or name
            raise
