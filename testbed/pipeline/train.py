"""The threat model in time order: poison, deliver, train, defend, measure. Nothing else decides what happens when."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.api import Attack, Defence, DefenderResources, Poison, Splits, Unsupported, Victim
from testbed.figure import draw_gallery
from testbed.fit import Settings
from testbed.metrics import Answers, answer, defence_effectiveness, rates
from testbed.pipeline.run import identify, log
from testbed.pipeline.scene import Attacked, Model, Scene, acts_in_training
from testbed.record import Origin, Outcome, Workspace, recorded


def train(
    *,
    data: Splits,
    model: Model,
    attack: Attack,
    defence: Defence,
    trainer: Settings,
    seed: int,
    paths: Mapping[str, str],
    logger: Any = None,
    origin: Origin | None = None,
) -> Path:
    """Train a victim under an attack and a defence, measure it, the undefended victim and the clean twin: the run folder.

    Raises:
        Invalid: a parameter that cannot work, found before anything is trained.
    """
    outputs, origin = Path(paths["outputs"]), origin or Origin()
    identity = identify(
        "train", data=data, model=model, attack=attack, method=defence, trainer=trainer, seed=seed, origin=origin
    )

    def work(workspace: Workspace) -> Outcome:
        return _measured(Scene(data, model, attack, trainer, seed, outputs, workspace), defence)

    return log(recorded(identity, outputs, origin, work), logger, outputs)


def _measured(scene: Scene, defence: Defence) -> Outcome:
    workspace = scene.workspace
    with workspace.phase("poison"):
        attacked = scene.attacked()
        defender = scene.defender_of(attacked, defence)
        workspace.write("manifest.json", scene.manifest(attacked))
    with workspace.phase("train"):
        undefended = scene.undefended(attacked)
    with workspace.phase("defend"):
        victim = defended(scene, defence, attacked, defender=defender, undefended=undefended)
    with workspace.phase("train_clean_twin"):
        twin = scene.clean_twin()
    with workspace.phase("measure"):
        outcome = _compared(scene, attacked, {"": victim, "undefended_": undefended, "clean_twin_": twin})
    draw_gallery(workspace.folder, scene.data.test, attacked.exams)
    return outcome


def defended(scene: Scene, defence: Defence, attacked: Attacked, *, defender: DefenderResources, undefended: Victim) -> Victim:
    """What the defender makes of the rows, of training, of the trained victim, and of its answers."""
    victim = copy.deepcopy(undefended)  # a defence may work in place; the undefended victim is still to be measured
    if acts_in_training(defence):
        if scene.attack.controls_training:
            raise Unsupported("the attacker controls training, so that there is no training for this defence to act in")
        chosen = defence.before_training(attacked.received, defender)
        untrained = defence.during_training(scene.fresh(), defender)
        victim = scene.fit(attacked.backdoored, defence, role="defended")(untrained, chosen)
    victim = defence.after_training(victim, defender)
    return defence.at_inference(victim, defender)


def _compared(scene: Scene, attacked: Attacked, victims: Mapping[str, Victim]) -> Outcome:
    """The same exams for the defended victim, the undefended one and the clean twin."""
    measures, counts = scene.budget(attacked)
    answers = {}
    for prefix, victim in victims.items():
        answers[prefix] = answered(victim, scene.data, attacked.exams)
        found, n = rates(answers[prefix], prefix)
        measures, counts = measures | found, counts | n
    before = {name.removeprefix("undefended_"): value for name, value in measures.items() if name.startswith("undefended_")}
    measures["defence_effectiveness"] = defence_effectiveness(before, measures)
    _keep(scene.workspace, answers)
    return Outcome(measures=measures, counts=counts)


def answered(victim: Victim, data: Splits, exams: Mapping[str, Poison]) -> dict[str, Answers]:
    """A victim's answers on the clean test, on the attacker's exams and on the data set's own."""
    own = {name: answer(victim, examples) for name, examples in data.exams.items()}
    return {
        "clean": answer(victim, data.test),
        **{name: answer(victim, data.test, exam) for name, exam in exams.items()},
        **own,
    }


def _keep(workspace: Workspace, answers: Mapping[str, Mapping[str, Answers]]) -> None:
    """Every answer, so that any metric can be computed again without the victims."""
    kept = {}
    for prefix, by_exam in answers.items():
        for name, said in by_exam.items():
            kept |= {f"{prefix}{name}.rows": said.rows, f"{prefix}{name}.correct": said.correct}
            kept |= {f"{prefix}{name}.given": said.given} if hasattr(said.given, "dtype") else {}
            kept |= {} if said.wanted is None else {f"{prefix}{name}.wanted": said.wanted}
    workspace.tensors("answers", **kept)
