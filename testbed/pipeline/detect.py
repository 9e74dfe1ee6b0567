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
    ModelDetector,
    Poison,
    Splits,
    Victim,
)
from testbed.data.overlay import anonymous, joined, shows_nothing, stored, unlabelled
from testbed.features import select
from testbed.figure import draw_detection, draw_gallery, draw_triggers
from testbed.fit import Settings
from testbed.identity import generator
from testbed.language import Judge
from testbed.metrics import detection, rates
from testbed.pipeline.adaptive import adaptivity
from testbed.pipeline.control import Asked, Found, Side, controls
from testbed.pipeline.guard import blamed, watched
from testbed.pipeline.inspection import inspected
from testbed.pipeline.run import identify, log
from testbed.pipeline.scene import Attacked, Model, Scene
from testbed.pipeline.train import answered, delivered, judged
from testbed.record import Origin, Outcome, Workspace, recorded

OF_SUSPICIOUS = ("auroc", "auprc", "tpr_at_fpr_01", "tpr_at_fpr_05", "tpr_at_rule")
"""What is null where nothing that is scored is the attacker's."""


def detect(
    *,
    data: Splits,
    model: Model,
    attack: Attack,
    detector: Detector | ModelDetector,
    trainer: Settings,
    seed: int,
    trial: int = 0,
    paths: Mapping[str, str],
    judge: Judge | None = None,
    logger: Any = None,
    origin: Origin | None = None,
) -> Path:
    """Train a victim under an attack and measure what a detector finds in it, and in its clean twin: the run folder.

    `trial` draws another target for an attack that is `targeted`.

    Raises:
        Invalid: a parameter that cannot work, found before anything is trained.
    """
    outputs, origin = Path(paths["outputs"]), origin or Origin()
    identity = identify(
        "detect",
        data=data,
        model=model,
        attack=attack,
        method=detector,
        trainer=trainer,
        seed=seed,
        origin=origin,
        judge=judge,
        trial=trial,
    )

    def work(workspace: Workspace) -> Outcome:
        return _measured(Scene(data, model, attack, trainer, seed, outputs, workspace, judge=judge, trial=trial), detector)

    return log(recorded(identity, outputs, origin, work), logger, outputs)


def _measured(scene: Scene, detector: Detector | ModelDetector) -> Outcome:
    workspace = scene.workspace
    attacked, defender, victim = delivered(scene, detector)
    with workspace.phase("train_clean_twin"):
        twin = scene.clean_twin()
    with workspace.phase("measure"):
        measures, counts = scene.budget(attacked)
        measures |= adaptivity(scene.attack, detector)
        for prefix, model in (("", victim), ("clean_twin_", twin)):
            found, n = rates(answered(model, scene, attacked.exams), prefix)
            measures, counts = measures | found, counts | n

    clean = anonymous(scene.data.train)
    in_peace = scene.defender(clean, False, torch.zeros(len(clean), dtype=torch.bool) if detector.oracle else None)
    with workspace.phase("detect"):
        judge = _models if isinstance(detector, ModelDetector) else _examples
        found, n = judge(scene, detector, (victim, defender), (twin, in_peace), attacked)  # type: ignore[arg-type]
    draw_gallery(workspace.folder, scene.data.test, attacked.exams)
    reasons = {} if isinstance(detector, ModelDetector) else _unseen(detector, scene.data.test, attacked.exams)
    return Outcome(measures=measures | found | judged(scene), counts=counts | n, reasons=reasons)


def _unseen(detector: Detector, test: Examples, exams: Mapping[str, Poison]) -> dict[str, str]:
    """Why what tells the attacker's queries from others is null, where he shows them as they are."""
    if "queries" not in detector.judges or not _plain(exams, test):
        return {}
    why = "the attack shows its queries as they are: there is nothing in them to detect"
    return dict.fromkeys((f"{_prefix(detector, 'queries')}{name}" for name in OF_SUSPICIOUS), why)


def _prefix(detector: Detector, kind: str) -> str:
    return "" if kind == "rows" or len(detector.judges) == 1 else f"{kind}_"


def _examples(scene: Scene, detector: Detector, at_war: Side, in_peace: Side, attacked: Attacked) -> Found:
    """Scores over training rows or queries; beside each other, where a detector judges both."""
    measures: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for kind in sorted(detector.judges, reverse=True):
        prefix = _prefix(detector, kind)
        shown, suspicious, clean = _judged(scene, kind, attacked, in_peace)
        scores, flagged = _scores(detector, shown, *at_war)
        alarms = _scores(detector, clean, *in_peace)[1]
        found, n = detection(scores, suspicious, flagged)
        found |= {"false_alarm_rate": None if alarms is None else float(alarms.double().mean())}
        n |= {"false_alarm_rate": len(clean)}
        if kind == "queries" and scene.data.task.kind in ("text", "chat"):
            harmless, near = scene.data.exams.get("open"), _near_misses(attacked.exams)
            asked = Asked(shown, suspicious)
            with blamed(detector, only_its_own=True):
                beside = controls(detector, asked, scores, at_war=at_war, in_peace=in_peace, harmless=harmless, near=near)
            found, n = found | beside[0], n | beside[1]
        measures |= {prefix + name: value for name, value in found.items()}
        counts |= {prefix + name: value for name, value in n.items()}
        scene.workspace.tensors(
            f"{prefix}scores", scores=scores, suspicious=suspicious, **({} if flagged is None else {"flagged": flagged})
        )
        draw_detection(scene.workspace.folder, prefix, scores, suspicious, toy=bool(judged(scene).get("toy")))
    return measures, counts


def _near_misses(exams: Mapping[str, Poison]) -> Examples | None:
    """The prompts of a near miss that nothing was taught about, or else of any."""
    exam = next((exams[name] for name in ("near_miss_unseen", "near_miss", "near_miss_seen") if name in exams), None)
    return None if exam is None else stored(exam.batch.inputs, exam.batch.labels)


def _judged(scene: Scene, kind: str, attacked: Attacked, in_peace: Side) -> tuple[Examples, Tensor, Examples]:
    """What is scored, which of it is the attacker's (bool (n,)), and the like of it where nobody attacks.

    Queries come in an order that tells nothing, and without an answer: the defender has none. Where an attack shows a query as
    it is, as one on a single row does, no query is the attacker's.
    """
    if kind == "rows":
        return attacked.received, attacked.mixed.flags, in_peace[1].train
    test = scene.data.test
    if "success" not in attacked.exams or _plain(attacked.exams, test):
        queries = unlabelled(test, torch.arange(len(test)))
        return queries, torch.zeros(len(test), dtype=torch.bool), queries
    exam = attacked.exams["success"]
    clean = select(test, exam.indices)
    order = torch.randperm(2 * len(clean), generator=generator(scene.seed, "order of queries"))
    return unlabelled(joined(clean, exam.batch), order), order >= len(clean), unlabelled(clean, torch.arange(len(clean)))


def _plain(exams: Mapping[str, Poison], test: Examples) -> bool:
    """Whether the attacker's queries are rows of the test as they are."""
    return "success" in exams and shows_nothing(test, exams["success"])


def _scores(
    detector: Detector, examples: Examples, victim: Victim, resources: DefenderResources
) -> tuple[Tensor, Tensor | None]:
    with watched(detector, "score", resources, examples, victim) as own:
        scores = detector.score(examples, victim, own)
        if scores.shape != (len(examples),) or not scores.is_floating_point() or not scores.isfinite().all():
            shown = f"{scores.dtype} {tuple(scores.shape)}, finite: {bool(scores.isfinite().all())}"
            raise TypeError(f"{type(detector).__name__}.score must return one finite float a row, not {shown}")
        flagged = detector.decide(scores, examples, victim, own)
        if flagged is not None and (flagged.dtype != torch.bool or flagged.shape != scores.shape):
            shown = f"{flagged.dtype} {tuple(flagged.shape)}"
            raise TypeError(f"{type(detector).__name__}.decide must return one bool a row or None, not {shown}")
    return scores, flagged


def _models(scene: Scene, detector: ModelDetector, at_war: Side, in_peace: Side, attacked: Attacked) -> Found:
    """Scores by class, on the victim and on its clean twin; the target class apart where the attack has one.

    `false_alarm_rate` is the share of the twin's classes that are flagged, so at most 1 / classes for a detector that flags
    one class at most, and absent where the model has one score. Whether the twin as a model is flagged is told by
    `clean_twin_flagged_classes` (any) or `clean_twin_flagged`; the rate of that over models is `population`'s.
    """
    classes = len(scene.data.task.classes)
    measures: dict[str, Any] = {}
    found = {"": inspected(detector, *at_war), "clean_twin_": inspected(detector, *in_peace)}
    for prefix, inspection in found.items():
        measures |= {
            f"{prefix}anomaly_index": float(inspection.scores.max()),
            f"{prefix}flagged_classes": list(inspection.flagged),
        }
        called = detector.decide(inspection.scores) if len(inspection.scores) == 1 else None
        measures |= {} if called is None else {f"{prefix}flagged": float(called)}
        if isinstance(inspection.triggers, list) and all(isinstance(trigger, str) for trigger in inspection.triggers):
            measures[f"{prefix}inverted_triggers"] = inspection.triggers
        draw_triggers(scene.workspace.folder, f"{prefix}inverted", inspection.triggers)
    scene.workspace.tensors("scores", **{f"{prefix}scores": inspection.scores for prefix, inspection in found.items()})
    judged = len(found[""].scores)  # a detector with one score for the whole model flags no class
    counts = {"anomaly_index": judged, **({"false_alarm_rate": classes} if judged == classes else {})}
    measures["false_alarm_rate"] = len(found["clean_twin_"].flagged) / classes if judged == classes else None
    targets = _targets(attacked.exams)
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
