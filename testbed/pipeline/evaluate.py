"""Measure saved victims, or stored answers, again: nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from testbed.answers import write_answers
from testbed.api import Attack, Invalid, Splits, component
from testbed.data.overlay import anonymous
from testbed.figure import draw_gallery
from testbed.files import read_json
from testbed.fit import Settings
from testbed.language import Judge
from testbed.metrics import REFUSED, detection, rates
from testbed.pipeline.rejudge import rejudge
from testbed.pipeline.run import identify, log
from testbed.pipeline.scene import Model, Scene
from testbed.pipeline.train import answered, stored_replies
from testbed.record import Origin, Outcome, Workspace, recorded
from testbed.record import runs as run_folders
from testbed.statistics import wilson
from testbed.table import print_intervals
from testbed.target import check_trial


def evaluate(
    *,
    runs: str | None,
    data: Splits,
    model: Model,
    attack: Attack,
    trainer: Settings,
    seed: int,
    trial: int = 0,
    paths: Mapping[str, str],
    judge: Judge | None = None,
    labels: str | None = None,
    logger: Any = None,
    origin: Origin | None = None,
) -> Path | int:
    """With `runs`, every rate of the runs below it again, from stored answers; otherwise the saved victim `model.weights`.

    `trial` is that of the run for whose target a targeted attack is shown.

    With `runs` and a `judge`, what was said is judged again by that judge: how it agrees with the judge that the run had, and
    with a person's verdicts in the file `labels`, is measured as well.

    Raises:
        Invalid: there is no run, or neither runs nor weights are named.
    """
    if runs is not None and judge is not None:
        return rejudge(Path(runs), judge, labels, outputs=Path(paths["outputs"]), origin=origin or Origin(), logger=logger)
    if labels is not None:
        raise Invalid("labels", labels, "there are no verdicts to compare them with", "say runs=FOLDER and judge=NAME too")
    if runs is not None:
        return _again(Path(runs))
    if not getattr(model, "keywords", {}).get("weights"):
        raise Invalid("runs", None, "nothing to evaluate", "say runs=FOLDER, or model.weights=FILE.safetensors")
    outputs, origin = Path(paths["outputs"]), origin or Origin()
    identity = identify(
        "evaluate",
        data=data,
        model=model,
        attack=attack,
        method=None,
        trainer=trainer,
        seed=seed,
        origin=origin,
        judge=judge,
        trial=trial,
    )

    def work(workspace: Workspace) -> Outcome:
        scene = Scene(data, model, attack, trainer, seed, outputs, workspace, judge=judge, trial=trial)
        return _measured(scene, origin.names.get("attack", type(attack).__name__))

    return log(recorded(identity, outputs, origin, work), logger, outputs)


def _measured(scene: Scene, name: str) -> Outcome:
    """What the saved victim does on the test and in the exams of this attack, which has this name."""
    attack, data, workspace = scene.attack, scene.data, scene.workspace
    check_trial(attack, scene.trial)
    with component("attack"):
        if attack.adaptive:
            limit, advice = "is made anew against each defence, and no defence is named here", "say runs=FOLDER of its runs"
            raise Invalid("", name, limit, advice)
        attack.check(scene.attacker)
        exams = attack.triggered_tests(anonymous(data.test), scene.attacker)
        if attack.controls_training and not exams:
            limit, advice = "learns its trigger with the victim, and does not know it here", "say runs=FOLDER of its runs"
            raise Invalid("", name, limit, advice)
    with workspace.phase("measure"):
        answers = answered(scene.fresh(), scene, exams)
        measures, counts = rates(answers)
    told = [row for exam, said in answers.items() if said.prompts is not None for row in stored_replies(exam, "", said)]
    if told:
        write_answers(workspace.folder / "answers.jsonl", told)
    draw_gallery(workspace.folder, data.test, exams)
    return Outcome(measures=measures, counts=counts)


def _again(root: Path) -> int:
    folders = [
        folder
        for folder in run_folders(root)
        if any((folder / f"{kind}.safetensors").is_file() for kind in ("answers", "scores"))
    ]
    if not folders:
        said = any((folder / "answers.jsonl").is_file() for folder in run_folders(root))
        advice = "say judge=NAME to judge again what was said" if said else "run testbed train first"
        raise Invalid("runs", root, "there is no run with stored answers or scores below it", advice)
    for folder in folders:
        measured = {**_answers(folder), **_scores(folder)}
        print_intervals(folder.name, measured, read_json(folder / "result.json")["measures"])
    return 0


def _answers(folder: Path) -> dict[str, Any]:
    """Every rate of `rates` again, with its Wilson interval over the test rows."""
    stored = _tensors(folder / "answers.safetensors")
    found = {}
    for name, hits in stored.items():
        exam, _, kind = name.rpartition(".")
        prefix = next((prefix for prefix in ("undefended_", "clean_twin_") if exam.startswith(prefix)), "")
        measure = _measure(exam.removeprefix(prefix), kind, attackers=f"{exam}.wanted" in stored)
        if measure is not None and len(hits):
            found[prefix + measure] = wilson(float(hits.double().mean()), len(hits))
    return found


def _measure(exam: str, kind: str, *, attackers: bool) -> str | None:
    if kind == "refused":
        return REFUSED.get(exam)
    if kind not in ("correct", "wanted") or exam == "over_refusal":
        return None
    if not attackers:
        return f"{exam}_correct_compliance" if exam in REFUSED else f"{exam}_accuracy"
    name = "robust_accuracy" if kind == "correct" else "attack_success_rate"
    return name if exam == "success" else f"{exam}_{name}"


def _scores(folder: Path) -> dict[str, Any]:
    """Detection measures again, from scores and truth; those that are rates with their Wilson interval."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*scores.safetensors")):
        stored, prefix = load_file(path), path.stem.removesuffix("scores")
        if "suspicious" in stored:
            measures, counts = detection(stored["scores"], stored["suspicious"], stored.get("flagged"))
            known = {name: value for name, value in measures.items() if value is not None}
            rated = {name: wilson(value, counts[name]) for name, value in known.items() if name.startswith(("tpr", "fpr"))}
            found |= {prefix + name: value for name, value in {**known, **rated}.items()}
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.is_file() else {}
