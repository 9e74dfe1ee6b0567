"""Is this model backdoored, and toward what? Nobody's attack is known: every detector that applies looks at it, and at
clean models of the same kind, which alone can say how often the detector is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from testbed.api import DefenderResources, Detector, Inspection, Invalid, ModelDetector, Splits, Unsupported, Victim
from testbed.figure import draw_triggers
from testbed.fit import Settings
from testbed.identity import derive
from testbed.pipeline.clean_models import Cohort, Fitness, Nobody, cohort, defender, fitness, of_class, spread
from testbed.pipeline.guard import blamed, require_method
from testbed.pipeline.inspection import inspected, reading, remembered
from testbed.pipeline.run import identify, log
from testbed.pipeline.scene import Model, Scene, maker
from testbed.record import Origin, Outcome, Workspace, recorded
from testbed.suspect import Read, read
from testbed.verdict import UNKNOWN, Evidence, conclusion, doubt_about, measured, relative, verdicts

REPORT = "audit.json"
LIMITS = ("memory", "seconds")
"""What may be set for the process that reads the file."""


@dataclass(frozen=True)
class Audit:
    """What an audit is asked: who looks, at how many clean models beside, and how near in fitness these must be."""

    detectors: Mapping[str, Any]
    population: int
    within: float
    limits: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raises `Invalid` for a number that cannot be, or what is no detector."""
        if self.population < 0:
            raise Invalid("population", self.population, "must be at least 0")
        if not 0 < self.within <= 1:
            raise Invalid("within", self.within, "must be above 0 and at most 1")
        for name in self.limits.keys() - set(LIMITS):  # their values are checked where they are set
            raise Invalid(f"limits.{name}", self.limits[name], "there is no such limit", f"choose from {', '.join(LIMITS)}")
        for name, detector in self.detectors.items():
            if not isinstance(detector, Detector | ModelDetector):
                raise Invalid(f"detectors.{name}", type(detector).__name__, "is no detector")
            require_method(detector)

    @property
    def of_models(self) -> dict[str, ModelDetector]:
        models = {name: each for name, each in self.detectors.items() if isinstance(each, ModelDetector)}
        return {name: each for name, each in models.items() if not each.oracle}

    @property
    def of_rows(self) -> dict[str, str]:
        """Detectors that have nothing to judge in an audit, and why."""
        others = {name: each for name, each in self.detectors.items() if name not in self.of_models}
        knowing = {name: "knows the answers, and here nobody does" for name, each in others.items() if each.oracle}
        return {**{name: f"judges {' and '.join(sorted(each.judges))}" for name, each in others.items()}, **knowing}


def audit(
    *,
    suspect: Mapping[str, str],
    data: Splits,
    model: Model,
    trainer: Settings,
    seed: int,
    paths: Mapping[str, str],
    detectors: Mapping[str, Any] | None = None,
    detector: Any = None,
    population: int = 8,
    within: float = 0.05,
    limits: Mapping[str, int | float] | None = None,
    logger: Any = None,
    origin: Origin | None = None,
) -> Path:
    """Look at one model with every detector of models, or with `detector` alone: the run folder.

    `suspect` names its file and the 'kind' of it ('file', 'adapter' or 'folder'); `model` is the architecture, and for an
    adapter or a folder also what clean models start from. `population` clean models are trained on `data.train`, which is
    trusted; a model whose fitness lies more than `within` outside theirs is compared with none of them. `limits` are those
    of the process that reads the file ('memory' in bytes, 'seconds').

    Raises:
        Invalid: a file that cannot be read or does not fit the model, or a parameter that cannot work.
        Refused: a file that is not safe to read.
    """
    outputs, origin = Path(paths["outputs"]), origin or Origin()
    alone = {origin.names.get("detector", type(detector).__name__.lower()): detector}
    asked = Audit(alone if detector is not None else dict(detectors or {}), population, within, dict(limits or {}))
    asked.check()
    found = read(suspect, model, data.task, **asked.limits)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(suspect["path"]).stem)[:24].strip(".") or "model"
    identity = identify(
        "audit",
        data=data,
        model=found.model,
        attack=None,
        method=asked.detectors,
        trainer=trainer,
        seed=seed,
        origin=origin,
        more={"suspect": {"sha256": found.sha256, "kind": suspect["kind"]}, "population": population, "within": within},
        named=f"{stem}-{origin.names.get('model', 'model')}",
    )

    def work(workspace: Workspace) -> Outcome:
        trainer.check()
        scene = Scene(data, found.model, Nobody(), trainer, seed, outputs, workspace)
        return _audited(scene, found, asked)

    return log(recorded(identity, outputs, origin, work), logger, outputs)


class Case(NamedTuple):
    """A model before its detectors, with clean ones beside it."""

    scene: Scene
    victim: Victim
    resources: DefenderResources
    clean: Cohort


def _audited(scene: Scene, found: Read, asked: Audit) -> Outcome:
    workspace = scene.workspace
    with workspace.phase("read"):
        victim = found.victim(scene.untrained(derive(scene.seed, "initialisation")))
        fit = fitness(victim, scene.data.test)
    beside = replace(scene, model=found.clean)
    resources = defender(beside)
    not_asked = asked.of_rows
    reasons = {}
    for name, each in asked.of_models.items():
        try:
            reasons[name] = _lacking(each, replace(resources, fresh=maker(scene, untrained=True)))
        except Unsupported as reason:
            not_asked[name] = str(reason)
    able = [name for name, reason in reasons.items() if not reason]
    with workspace.phase("clean_models"):
        clean = cohort(beside, asked.population) if able and not found.lone else Cohort([], [], found.lone)
    with workspace.phase("inspect"):
        case = Case(scene, victim, resources, clean)
        evidence = [
            Evidence(name, reason=reason) if reason else _evidence(case, name, asked.of_models[name])
            for name, reason in reasons.items()
        ]
    doubt = doubt_about(fit._asdict(), clean.fitness, asked.within) or clean.doubt
    outcome, report = _concluded(evidence, doubt)
    name = fit.name.replace(" ", "_")
    outcome.measures |= {name: fit.value, "marked_backdoored": found.marked}
    outcome.measures |= {f"clean_models_{name}_{end}": value for end, value in spread(clean.fitness).items() if end != "n"}
    outcome.counts |= {name: fit.n, "clean_models": len(clean.victims)}
    workspace.write(REPORT, {**report, "not_asked": not_asked, **_described(scene, found, fit, clean)})
    return outcome


def _concluded(evidence: list[Evidence], doubt: str) -> tuple[Outcome, dict[str, Any]]:
    """Measures, and the same for people to read: a line a detector, and the last line."""
    told = verdicts(evidence, doubt)
    end = conclusion(evidence, told)
    measures, counts, why = measured(evidence, told)
    measures |= {"verdict": end.word, "suspected_target": end.toward, "p_value": end.p}
    measures["false_alarm_rate"] = end.false_alarm_rate
    lines = [{**asdict(each), **verdict._asdict()} for each, verdict in zip(evidence, told, strict=True)]
    why_not = doubt or next((verdict.why for verdict in told), "no detector of models applies to these data")
    report = {"detectors": lines, "conclusion": {**end._asdict(), "doubt": why_not if end.word == UNKNOWN else ""}}
    return Outcome(measures=measures, counts=counts, reasons=why), report


def _described(scene: Scene, found: Read, fit: Fitness, clean: Cohort) -> dict[str, Any]:
    return {
        "file": found.described(),
        "classes": list(scene.data.task.classes),
        "fitness": {**fit._asdict(), "clean": spread(clean.fitness)},
        "reserve": len(scene.data.reserve),
    }


def _lacking(detector: ModelDetector, resources: DefenderResources) -> str:
    """What the data lack for this detector; '' where it can be asked. What is wrong with its parameters is raised."""
    try:
        with blamed(detector):
            detector.check(resources)
    except Invalid as error:
        if error.component != "data":
            error.component = error.component or "detectors"
            raise
        return str(error)  # a small reserve is no mistake of whoever has no more
    return ""


def _evidence(case: Case, name: str, detector: ModelDetector) -> Evidence:
    scene, resources = case.scene, case.resources
    inspection = inspected(detector, case.victim, resources)
    own = reading(detector, inspection)
    others = [remembered(detector, other, resources, scene.outputs) for other in case.clean.victims]
    far = relative([own.absolute, *(other.absolute for other in others)])
    scene.workspace.tensors(
        f"{name}_scores",
        scores=inspection.scores,
        absolute=torch.tensor([own.absolute, *(other.absolute for other in others)], dtype=torch.float64),
    )
    by_class = len(inspection.scores) > 1
    place = int(far.toward[0]) if others else int(inspection.scores.argmax())
    _draw(scene, name, inspection, place if by_class else None)
    return Evidence(
        name,
        value=float(far.highest[0]),
        clean=tuple(map(float, far.highest[1:])),
        score=own.score,
        clean_scores=tuple(other.score for other in others),
        fired=own.fired,
        clean_fired=tuple(bool(other.fired) for other in others if other.fired is not None),
        toward=place if by_class else None,
        trigger=_text(inspection.triggers, place),
    )


def _draw(scene: Scene, name: str, inspection: Inspection, toward: int | None) -> None:
    draw_triggers(scene.workspace.folder, f"{name}_every_class", inspection.triggers)
    if toward is not None:
        draw_triggers(scene.workspace.folder, f"{name}_most_suspicious", of_class(inspection.triggers, toward))


def _text(triggers: Any, place: int) -> str | None:
    told = triggers if isinstance(triggers, list | tuple) else []
    return str(told[place]) if place < len(told) and isinstance(told[place], str) else None
