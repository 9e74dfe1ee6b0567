"""Poison and train as in `train`, stop there, and ask a detector what it suspects; then compare with the poison record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.api import (
    Attack,
    DefenderResources,
    Detector,
    Examples,
    Inspection,
    ModelDetector,
    Poison,
    Splits,
    Victim,
    component,
)
from testbed.data.overlay import Poisoned, anonymous, joined
from testbed.features import select
from testbed.fit import Settings
from testbed.metrics import answer, detection, rates
from testbed.pipeline.run import identify, log
from testbed.pipeline.scene import Model, Scene
from testbed.record import Origin, Outcome, Workspace, recorded
from testbed.figure import draw_detection, draw_gallery, draw_triggers

Found = tuple[dict[str, Any], dict[str, int]]


def detect(
    *,
    data: Splits,
    model: Model,
    attack: Attack,
    detector: Detector | ModelDetector,
    trainer: Settings,
    seed: int,
    paths: Mapping[str, str],
    logger: Any = None,
    origin: Origin = Origin(),
) -> Path:
    """Train a victim under an attack and measure what a detector finds in it, and in its clean twin: the run folder.

    Raises:
        Invalid: a parameter that cannot work, found before anything is trained.
    """
    outputs = Path(paths["outputs"])
    identity = identify(
        "detect", data=data, model=model, attack=attack, method=detector, trainer=trainer, seed=seed, origin=origin
    )

    def work(workspace: Workspace) -> Outcome:
        return _measured(Scene(data, model, attack, trainer, seed, outputs, workspace), detector)

    return log(recorded(identity, outputs, origin, work), logger, outputs)


def _measured(scene: Scene, detector: Detector | ModelDetector) -> Outcome:
    workspace = scene.workspace
    scene.check_attack()
    with workspace.phase("poison"):
        poison = scene.poison()
        mixed, received = scene.delivered(poison)
        exams = scene.exams()
    measures, counts = scene.budget(poison, mixed)
    backdoored = len(mixed.positions) > 0 or scene.attack.controls_training
    defender = scene.defender(received, mixed.flags if detector.oracle else None, backdoored)
    with component("detector"):
        detector.check(defender)
    workspace.write("manifest.json", scene.manifest(poison, mixed))
    with workspace.phase("train"):
        victim = scene.undefended(received, mixed)
    with workspace.phase("train_clean_twin"):
        twin = scene.clean_twin()
    with workspace.phase("measure"):
        found, n = rates(
            {"clean": answer(victim, scene.data.test), **{k: answer(victim, scene.data.test, e) for k, e in exams.items()}}
        )
    measures, counts = measures | found, counts | n

    clean_rows = anonymous(scene.data.train)
    in_peace = scene.defender(clean_rows, torch.zeros(len(clean_rows), dtype=torch.bool) if detector.oracle else None, False)
    with workspace.phase("detect"):
        if isinstance(detector, ModelDetector):
            found, n = _models(scene, detector, (victim, defender), (twin, in_peace), exams)
        else:
            found, n = _examples(scene, detector, (victim, defender), (twin, in_peace), mixed, exams)
    draw_gallery(workspace.folder, scene.data.test, exams)
    return Outcome(measures=measures | found, counts=counts | n)


Side = tuple[Victim, DefenderResources]


def _examples(
    scene: Scene, detector: Detector, attacked: Side, peace: Side, mixed: Poisoned, exams: Mapping[str, Poison]
) -> Found:
    """Scores over training rows or queries; beside each other, where a detector judges both."""
    measures: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for kind in sorted(detector.judges, reverse=True):
        prefix = "" if kind == "rows" or len(detector.judges) == 1 else f"{kind}_"
        judged, suspicious, clean = _judged(scene, kind, attacked, peace, mixed, exams)
        scores, flagged = _scores(detector, judged, *attacked)
        alarms = _scores(detector, clean, *peace)[1]
        found, n = detection(scores, suspicious, flagged)
        found |= {"false_alarm_rate": None if alarms is None else float(alarms.double().mean())}
        n |= {"false_alarm_rate": len(clean)}
        measures |= {prefix + name: value for name, value in found.items()}
        counts |= {prefix + name: value for name, value in n.items()}
        scene.workspace.tensors(
            f"{prefix}scores", scores=scores, suspicious=suspicious, **({} if flagged is None else {"flagged": flagged})
        )
        draw_detection(scene.workspace.folder, prefix, scores, suspicious)
    return measures, counts


def _judged(
    scene: Scene, kind: str, attacked: Side, peace: Side, mixed: Poisoned, exams: Mapping[str, Poison]
) -> tuple[Examples, Tensor, Examples]:
    """What is scored, which of it is the attacker's (bool (n,)), and the like of it where nobody attacks."""
    if kind == "rows":
        return attacked[1].train, mixed.flags, peace[1].train
    test = scene.data.test
    if "success" not in exams:
        return test, torch.zeros(len(test), dtype=torch.bool), test
    exam = exams["success"]
    clean = select(test, exam.indices)
    flags = torch.arange(2 * len(clean)) >= len(clean)
    return joined(clean, exam.batch), flags, clean


def _scores(
    detector: Detector, examples: Examples, victim: Victim, resources: DefenderResources
) -> tuple[Tensor, Tensor | None]:
    scores = detector.score(examples, victim, resources)
    if scores.shape != (len(examples),) or not scores.is_floating_point() or not scores.isfinite().all():
        shown = f"{scores.dtype} {tuple(scores.shape)}, finite: {bool(scores.isfinite().all())}"
        raise TypeError(f"{type(detector).__name__}.score must return one finite float a row, not {shown}")
    return scores, detector.decide(scores, examples, victim, resources)


def _models(scene: Scene, detector: ModelDetector, attacked: Side, peace: Side, exams: Mapping[str, Poison]) -> Found:
    """Scores by class, on the victim and on its clean twin; the target class apart where the attack has one."""
    classes = len(scene.data.task.classes)
    measures: dict[str, Any] = {}
    found = {"": detector.inspect(*attacked), "clean_twin_": detector.inspect(*peace)}
    for prefix, inspection in found.items():
        _verify(detector, inspection, classes)
        measures |= {
            f"{prefix}anomaly_index": float(inspection.scores.max()),
            f"{prefix}flagged_classes": list(inspection.flagged),
        }
        draw_triggers(scene.workspace.folder, f"{prefix}inverted", inspection.triggers)
    scene.workspace.tensors("scores", **{f"{prefix}scores": inspection.scores for prefix, inspection in found.items()})
    counts = {"anomaly_index": classes, "false_alarm_rate": classes}
    measures["false_alarm_rate"] = len(found["clean_twin_"].flagged) / classes
    targets = _targets(exams)
    if len(targets) == 1 and len(found[""].scores) == classes:
        target = targets[0]
        measures |= {
            "target_anomaly_index": float(found[""].scores[target]),
            "target_flagged": float(target in found[""].flagged),
            "other_classes_flagged": len(set(found[""].flagged) - {target}),
        }
        counts |= {"other_classes_flagged": classes - 1}
    return measures, counts


def _targets(exams: Mapping[str, Poison]) -> list[int]:
    wanted = exams["success"].batch.labels if "success" in exams else None
    return wanted.unique().tolist() if isinstance(wanted, Tensor) else []


def _verify(detector: ModelDetector, inspection: Inspection, classes: int) -> None:
    scores = inspection.scores
    if scores.shape not in ((classes,), (1,)) or not scores.isfinite().all():
        raise TypeError(f"{type(detector).__name__}.inspect must return {classes} finite scores, or one, not {scores}")
    if scores.shape == (1,) and inspection.flagged:
        raise TypeError(f"{type(detector).__name__}.inspect gave one score for the whole model, so it cannot flag classes")
