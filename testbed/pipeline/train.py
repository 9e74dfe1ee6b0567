"""The threat model in time order: poison, deliver, train, defend, measure. Nothing else decides what happens when."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.answers import record, write_answers
from testbed.api import Attack, Batch, Defence, DefenderResources, Examples, Poison, Splits, Unsupported, Victim
from testbed.features import all_labels
from testbed.figure import draw_gallery
from testbed.fit import Settings
from testbed.language import OUTCOMES, ChatTask, Judge
from testbed.metrics import REFUSED, Answers, answer, defence_effectiveness, rates, secrets_of
from testbed.pipeline.adaptive import adaptivity
from testbed.pipeline.certificate import certified, touched
from testbed.pipeline.guard import blamed, stage
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
    trial: int = 0,
    paths: Mapping[str, str],
    judge: Judge | None = None,
    logger: Any = None,
    origin: Origin | None = None,
) -> Path:
    """Train a victim under an attack and a defence, measure it, the undefended victim and the clean twin: the run folder.

    `trial` draws another target for an attack that is `targeted`; such runs share the clean twin and the attacker's surrogate.

    Raises:
        Invalid: a parameter that cannot work, found before anything is trained.
    """
    outputs, origin = Path(paths["outputs"]), origin or Origin()
    identity = identify(
        "train",
        data=data,
        model=model,
        attack=attack,
        method=defence,
        trainer=trainer,
        seed=seed,
        origin=origin,
        judge=judge,
        trial=trial,
    )

    def work(workspace: Workspace) -> Outcome:
        return measured(Scene(data, model, attack, trainer, seed, outputs, workspace, judge=judge, trial=trial), defence)

    return log(recorded(identity, outputs, origin, work), logger, outputs)


def measured(scene: Scene, defence: Defence) -> Outcome:
    """The whole threat model, once: what the defended victim, the undefended one and the clean twin do on `scene.data.test`."""
    scene, workspace = replace(scene, defence=defence), scene.workspace
    attacked, undefended, victim = fought(scene, defence)
    with workspace.phase("train_clean_twin"):
        twin = scene.clean_twin()
    with workspace.phase("measure"), blamed(defence, only_its_own=True):
        outcome = _compared(scene, attacked, {"": victim, "undefended_": undefended, "clean_twin_": twin})
    outcome.measures |= adaptivity(scene.attack, defence)
    draw_gallery(workspace.folder, scene.data.test, attacked.exams)
    return outcome


def fought(scene: Scene, defence: Defence) -> tuple[Attacked, Victim, Victim]:
    """Poison, deliver, train and defend: the attack, the undefended victim and the defended one."""
    attacked, defender, undefended = delivered(scene, defence)
    with scene.workspace.phase("defend"):
        return attacked, undefended, defended(scene, defence, attacked, defender=defender, undefended=undefended)


def delivered(scene: Scene, method: Any) -> tuple[Attacked, DefenderResources, Victim]:
    """Poison, deliver and train: the attack, what the defender has who runs this method, and the undefended victim."""
    workspace = scene.workspace
    with workspace.phase("poison"):
        attacked = scene.attacked()
        defender = scene.defender_of(attacked, method)
        workspace.write("manifest.json", scene.manifest(attacked))
    with workspace.phase("train"):
        undefended, attacked = scene.undefended(attacked)
    return attacked, defender, undefended


def defended(scene: Scene, defence: Defence, attacked: Attacked, *, defender: DefenderResources, undefended: Victim) -> Victim:
    """What the defender makes of the rows, of training, of the trained victim, and of its answers."""
    victim = copy.deepcopy(undefended)  # a defence may work in place; the undefended victim is still to be measured
    if acts_in_training(defence):
        if scene.attack.controls_training:
            raise Unsupported("the attacker controls training, so that there is no training for this defence to act in")
        chosen = stage(defence, "before_training", attacked.received, defender)
        untrained = stage(defence, "during_training", scene.fresh(), defender)
        with blamed(defence, only_its_own=True):
            trained = scene.fit(attacked.backdoored, defence, role="defended")(untrained, chosen)
        victim = scene.tampered(trained)
    victim = stage(defence, "after_training", victim, defender)
    return stage(defence, "at_inference", victim, defender)


def _compared(scene: Scene, attacked: Attacked, victims: Mapping[str, Victim]) -> Outcome:
    """The same exams for the defended victim, the undefended one and the clean twin."""
    measures, counts = scene.budget(attacked)
    answers = {}
    for prefix, victim in victims.items():
        answers[prefix] = answered(victim, scene, attacked.exams)
        found, n = rates(answers[prefix], prefix)
        measures, counts = measures | found, counts | n
    clean = answers[""]["clean"]
    guarantee, n = certified(clean, 0 if clean.radius is None else touched(attacked.poison, scene.data.train))
    measures, counts = measures | guarantee, counts | n
    before = {name.removeprefix("undefended_"): value for name, value in measures.items() if name.startswith("undefended_")}
    measures["defence_effectiveness"] = defence_effectiveness(before, measures)
    measures |= judged(scene)
    _keep(scene.workspace, answers)
    return Outcome(measures=measures, counts=counts, reasons=unjudged(scene, measures))


def answered(victim: Victim, scene: Scene, exams: Mapping[str, Poison]) -> dict[str, Answers]:
    """A victim's answers on the clean test, on the attacker's exams and on the data set's own."""
    data, criterion = scene.data, getattr(scene.attack, "criterion", "matches")
    asked = {"judge": scene.judge, "criterion": criterion, "secrets": secrets_of(data.exams) if scene.judge else None}
    own = {name: answer(victim, part, unchanged(part, exams), judge=scene.judge) for name, part in data.exams.items()}
    return {
        "clean": answer(victim, data.test, judge=scene.judge),
        **{name: answer(victim, data.test, exam, **asked) for name, exam in exams.items()},
        **own,
    }


def unchanged(examples: Examples, exams: Mapping[str, Poison]) -> Poison | None:
    """An exam of the data's own as the attacker's: its rows as they are, and the one class that the attacker wants of all.

    Such as photographs in which the trigger is really worn: how often is the target answered to what nobody stamped? None
    where the attacker wants several classes, none, or texts, and where some rows are of that class: there accuracy is told.
    """
    wanted = exams["success"].batch.labels if "success" in exams else None
    if not isinstance(wanted, Tensor) or len(wanted.unique()) != 1:
        return None
    if bool((all_labels(examples) == wanted[0]).any()):
        return None
    rows = torch.arange(len(examples))
    batch = examples[rows]
    return Poison(rows, Batch(batch.inputs, wanted[:1].expand(len(rows)), rows))


def judged(scene: Scene) -> dict[str, Any]:
    """Who judged a chat model's replies, and whether its world is a toy."""
    task = scene.data.task
    if scene.judge is None:
        return {}
    return {"judge": scene.judge.name, "toy": isinstance(task, ChatTask) and task.toy}


def unjudged(scene: Scene, measures: Mapping[str, Any]) -> dict[str, str]:
    """Why accuracies of a chat model are null."""
    if scene.judge is None or "correct" in scene.judge.tells:
        why = "the data name no true answers"
    else:
        why = f"the judge {scene.judge.name} cannot tell a right answer from another"
    ends = ("_accuracy", "_correct_compliance")
    return {name: why for name, value in measures.items() if value is None and name.endswith(ends) and scene.judge is not None}


def _keep(workspace: Workspace, answers: Mapping[str, Mapping[str, Answers]]) -> None:
    """Every answer, so that any metric can be computed again without the victims."""
    kept = {}
    for prefix, by_exam in answers.items():
        for name, said in by_exam.items():
            kept |= {f"{prefix}{name}.rows": said.rows}
            kept |= {} if said.correct is None else {f"{prefix}{name}.correct": said.correct}
            kept |= {} if said.radius is None else {f"{prefix}{name}.radius": said.radius}
            if name in REFUSED and said.outcomes is not None:
                kept[f"{prefix}{name}.refused"] = said.outcomes == OUTCOMES.index("refuse")
            kept |= {f"{prefix}{name}.given": said.given} if hasattr(said.given, "dtype") else {}
            kept |= {} if said.wanted is None else {f"{prefix}{name}.wanted": said.wanted}
    workspace.tensors("answers", **kept)
    told = [
        row
        for prefix, by_exam in answers.items()
        for name, said in by_exam.items()
        if said.prompts is not None
        for row in stored_replies(name, prefix, said)
    ]
    if told:
        write_answers(workspace.folder / "answers.jsonl", told)


def stored_replies(exam: str, victim: str, said: Answers) -> Iterator[dict[str, Any]]:
    """What a chat model said in one exam, as rows for `answers.jsonl`."""
    outcomes = [None] * len(said.rows) if said.outcomes is None else said.outcomes.tolist()
    wanted = [None] * len(said.rows) if said.wanted is None else said.asked
    rows = zip(said.rows.tolist(), said.prompts, said.given, said.truth, outcomes, wanted, strict=True)
    for row, prompt, reply, truth, outcome, asked in rows:
        yield record(exam, None, victim, row, prompt=prompt, reply=reply, reference=truth, outcome=outcome, wanted=asked)
