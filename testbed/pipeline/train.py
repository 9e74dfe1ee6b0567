"""The threat model in time order: poison, deliver, train, defend, measure. Nothing else decides what happens when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.api import Attack, Defence, DefenderResources, Examples, Splits, Unsupported, Victim, component
from testbed.data.overlay import Poisoned
from testbed.fit import Settings
from testbed.metrics import Answers, answer, defence_effectiveness, rates
from testbed.pipeline.run import identify, log
from testbed.pipeline.scene import Model, Scene, acts_in_training
from testbed.record import Origin, Outcome, Workspace, recorded
from testbed.figure import draw_gallery


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
    origin: Origin = Origin(),
) -> Path:
    """Train a victim under an attack and a defence, measure it, the undefended victim and the clean twin: the run folder.

    Raises:
        Invalid: a parameter that cannot work, found before anything is trained.
    """
    outputs = Path(paths["outputs"])
    identity = identify(
        "train", data=data, model=model, attack=attack, method=defence, trainer=trainer, seed=seed, origin=origin
    )

    def work(workspace: Workspace) -> Outcome:
        return _measured(Scene(data, model, attack, trainer, seed, outputs, workspace), defence)

    return log(recorded(identity, outputs, origin, work), logger, outputs)


def _measured(scene: Scene, defence: Defence) -> Outcome:
    attack, workspace = scene.attack, scene.workspace
    scene.check_attack()
    with workspace.phase("poison"):
        poison = scene.poison()
        mixed, received = scene.delivered(poison)
        exams = scene.exams()
    budget, counts = scene.budget(poison, mixed)
    defender = _defender(scene, defence, received, mixed)
    with component("defence"):
        defence.check(defender)
    workspace.write("manifest.json", scene.manifest(poison, mixed))

    with workspace.phase("train"):
        undefended = scene.undefended(received, mixed)
    with workspace.phase("defend"):
        victim = defended(scene, defence, received, mixed, defender, undefended)
    with workspace.phase("train_clean_twin"):
        twin = scene.clean_twin()

    measures: dict[str, Any] = {**budget}
    with workspace.phase("measure"):
        answers = {}
        for prefix, subject in (("", victim), ("undefended_", undefended), ("clean_twin_", twin)):
            answers[prefix] = {name: answer(subject, scene.data.test, exam) for name, exam in _tests(exams).items()}
            if not prefix:
                answers[prefix] |= {name: answer(subject, exam) for name, exam in scene.data.exams.items()}
            found, n = rates(answers[prefix], prefix)
            measures, counts = measures | found, counts | n
    before = {name.removeprefix("undefended_"): value for name, value in measures.items() if name.startswith("undefended_")}
    measures["defence_effectiveness"] = defence_effectiveness(before, measures)
    _keep(workspace, answers)
    draw_gallery(workspace.folder, scene.data.test, exams)
    return Outcome(measures=measures, counts=counts)


def defended(
    scene: Scene, defence: Defence, received: Examples, mixed: Poisoned, defender: DefenderResources, undefended: Victim
) -> Victim:
    """What the defender makes of the rows, of training, of the trained victim, and of its answers."""
    victim = undefended
    if acts_in_training(defence):
        if scene.attack.controls_training:
            raise Unsupported("the attacker controls training, so that there is no training for this defence to act in")
        chosen = defence.before_training(received, defender)
        untrained = defence.during_training(scene.fresh(), defender)
        victim = scene.fit(len(mixed.positions) > 0, defence)(untrained, chosen)
    victim = defence.after_training(victim, defender)
    return defence.at_inference(victim, defender)


def _defender(scene: Scene, defence: Defence, received: Examples, mixed: Poisoned) -> DefenderResources:
    backdoored = len(mixed.positions) > 0 or scene.attack.controls_training
    return scene.defender(received, mixed.flags if defence.oracle else None, backdoored)


def _tests(exams: Mapping[str, Any]) -> dict[str, Any]:
    return {"clean": None, **exams}


def _keep(workspace: Workspace, answers: Mapping[str, Mapping[str, Answers]]) -> None:
    """Every answer, so that any metric can be computed again without the victims."""
    kept = {}
    for prefix, by_exam in answers.items():
        for name, said in by_exam.items():
            kept |= {f"{prefix}{name}.rows": said.rows, f"{prefix}{name}.correct": said.correct}
            kept |= {f"{prefix}{name}.given": said.given} if hasattr(said.given, "dtype") else {}
            kept |= {} if said.wanted is None else {f"{prefix}{name}.wanted": said.wanted}
    workspace.tensors("answers", **kept)
