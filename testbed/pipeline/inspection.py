"""A model detector at work: watched, its answer verified, and for models that others ask about too remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from testbed.api import DefenderResources, Inspection, ModelDetector, Victim
from testbed.files import read_json, write_whole
from testbed.identity import RUN_CORE, describe, examples_digest, key, sources, weights_digest
from testbed.lock import lock
from testbed.pipeline.guard import watched

FOLDER = "inspection"


class Reading(NamedTuple):
    """What is kept of an inspection: a model's highest score, and whether the paper's own rule flags it (None: no rule).

    `absolute` are the scores by which models are compared: one a class, or one.
    """

    score: float
    fired: bool | None
    absolute: list[float]


def inspected(detector: ModelDetector, victim: Victim, resources: DefenderResources) -> Inspection:
    """What the detector finds in a model.

    Raises:
        Faulty: it failed, or gave back what is no inspection.
    """
    with watched(detector, "inspect", resources, victim) as own:
        inspection = detector.inspect(victim, own)
        _verify(detector, inspection, len(resources.task.classes))
    return inspection


def reading(detector: ModelDetector, inspection: Inspection) -> Reading:
    """The score of the whole model, and whether the detector's own rule flags it: a class of it, or all of it."""
    compared = inspection.scores if inspection.absolute is None else inspection.absolute
    by_class = len(inspection.scores) > 1
    fired = bool(inspection.flagged) if by_class else detector.decide(inspection.scores)
    return Reading(float(inspection.scores.max()), fired, compared.double().tolist())


def remembered(detector: ModelDetector, victim: Victim, resources: DefenderResources, outputs: Path) -> Reading:
    """The same reading as of an inspection made now: equal models, detectors, rows and seeds are inspected once."""
    named = key(
        detector=describe(detector),
        victim=describe(victim),
        weights=weights_digest(victim),
        rows=[examples_digest(resources.train), examples_digest(resources.reserve)],
        seed=resources.seed,
        sources=sources(detector, victim, core=(*RUN_CORE, __name__)),
    )
    place = outputs / FOLDER / f"{named}.json"
    with lock(place):  # another audit may be looking at the same model now
        return _once(place, lambda: reading(detector, inspected(detector, victim, resources)))


def _once(place: Path, make: Callable[[], Reading]) -> Reading:
    """What the file says, or what is made and written now; a file that cannot be read is made again."""
    try:
        known: dict[str, Any] = read_json(place)
        return Reading(float(known["score"]), known["fired"], [float(score) for score in known["absolute"]])
    except (OSError, ValueError, TypeError, KeyError):
        found = make()
        write_whole(place, json.dumps(found._asdict()))
        return found


def _verify(detector: ModelDetector, inspection: Inspection, classes: int) -> None:
    scores = inspection.scores
    if scores.shape not in ((classes,), (1,)) or not scores.isfinite().all():
        raise TypeError(f"{type(detector).__name__}.inspect must return {classes} finite scores, or one, not {scores}")
    absolute = inspection.absolute
    if absolute is not None and (absolute.shape != scores.shape or not absolute.isfinite().all()):
        raise TypeError(f"{type(detector).__name__}.inspect must give absolute scores for its {len(scores)}, not {absolute}")
    if scores.shape == (1,) and inspection.flagged:
        raise TypeError(f"{type(detector).__name__}.inspect gave one score for the whole model, so it cannot flag classes")
