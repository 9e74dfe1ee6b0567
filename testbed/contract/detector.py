"""What detectors of rows, of queries and of models promise."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from testbed.api import Batch, Examples
from testbed.contract.defence import resources_of
from testbed.contract.promise import Promise, Results, Trial, require
from testbed.contract.watch import Watch
from testbed.contract.world import spread
from testbed.data.overlay import anonymous, joined, unlabelled
from testbed.features import select

JUDGED = ("rows", "queries")
QUERIES = 8


def act(trial: Trial, rows: Examples, watch: Watch) -> Results:
    """Scores of all that the detector judges, and what its own rule says of them."""
    detector, results = trial.method, {}
    for kind in sorted(set(JUDGED) & set(detector.judges)):
        examples = rows if kind == "rows" else queries(trial)
        resources, victim = resources_of(trial, rows), copy.deepcopy(trial.world.victim)
        with watch.models(victim, *(resources.reference or ())):
            scores = detector.score(examples, victim, resources)
            flagged = detector.decide(scores, examples, victim, resources)
        results |= {f"{kind} scored": scores, f"{kind} flagged": flagged}
    return results


def inspect_act(trial: Trial, rows: Examples, watch: Watch) -> Results:
    """What a model detector finds in the victim."""
    resources, victim = resources_of(trial, rows), copy.deepcopy(trial.world.victim)
    with watch.models(victim, *(resources.reference or ())):
        return {"inspection": trial.method.inspect(victim, resources)}


def queries(trial: Trial) -> Examples:
    """Some test rows and, after them, what the world's attack makes of others."""
    world = trial.world
    exams = world.attack.triggered_tests(world.data.test, world.attacker(world.data.train))
    clean = select(world.data.test, spread(world.data.test, QUERIES))
    if not exams:
        return anonymous(clean)
    shown = exams["success"].batch
    return joined(clean, Batch(shown.inputs[:QUERIES], shown.labels[:QUERIES], shown.rows[:QUERIES]))


def judges_something(trial: Trial) -> None:
    """`judges` is a set of 'rows', 'queries' or both."""
    judges = getattr(trial.method, "judges", None)
    proper = isinstance(judges, frozenset) and bool(judges) and judges <= set(JUDGED)
    require(proper, f"judges is {judges}, where it is a frozenset of {' and '.join(map(repr, JUDGED))}, or one of them")


def scores_each_once(trial: Trial) -> None:
    """float (n,), finite."""
    for kind, count in _judged(trial):
        scores = trial.first.results[f"{kind} scored"]
        require(isinstance(scores, Tensor) and scores.is_floating_point(), f"{kind}: scores are no float tensor")
        require(scores.shape == (count,), f"{kind}: scores of shape {tuple(scores.shape)} for {count} {kind}")
        require(bool(scores.isfinite().all()), f"{kind}: {int((~scores.isfinite()).sum())} of {count} scores are not finite")


def decides_or_not(trial: Trial) -> None:
    """bool (n,) or None."""
    for kind, count in _judged(trial):
        flagged = trial.first.results[f"{kind} flagged"]
        proper = flagged is None or (isinstance(flagged, Tensor) and flagged.dtype == torch.bool and flagged.shape == (count,))
        require(proper, f"{kind}: decide gave neither bool ({count},) nor None")


def needs_no_answers_to_queries(trial: Trial) -> None:
    """The answer to a query is what the model is asked for: nobody can tell it beforehand."""
    if "queries" not in trial.method.judges:
        return
    asked = queries(trial)
    bare = unlabelled(asked, torch.arange(len(asked)))
    resources, victim = resources_of(trial, anonymous(trial.rows)), copy.deepcopy(trial.world.victim)
    scores = trial.method.score(bare, victim, resources)
    require(torch.equal(scores, trial.second.results["queries scored"]), "the scores change when the queries have no labels")


def inspects_classes(trial: Trial) -> None:
    """`Inspection.scores` float (classes,) or (1,), finite; `flagged` existing classes, none if there is one score."""
    found, classes = trial.first.results["inspection"], len(trial.world.data.task.classes)
    scores = found.scores
    require(isinstance(scores, Tensor) and scores.is_floating_point(), "scores are no float tensor")
    require(scores.shape in ((classes,), (1,)), f"scores of shape {tuple(scores.shape)} for {classes} classes")
    require(all(math.isfinite(score) for score in scores.tolist()), "a score is not finite")
    proper = isinstance(found.flagged, tuple) and set(found.flagged) <= set(range(classes))
    require(proper, f"flagged is {found.flagged}, not a tuple of classes")
    require(len(scores) == classes or not found.flagged, "one score for the whole model cannot flag classes")


PROMISES = (
    Promise("it judges rows, queries or both", judges_something),
    Promise("it gives each row or query one finite score", scores_each_once),
    Promise("its own rule says yes or no to each, or it has none", decides_or_not),
    Promise("it does not read the answers to queries", needs_no_answers_to_queries),
)
MODEL_PROMISES = (Promise("it gives each class, or the whole model, one finite score", inspects_classes),)


def _judged(trial: Trial) -> list[tuple[str, int]]:
    sizes = {"rows": len(trial.rows), "queries": len(queries(trial))}
    return [(kind, sizes[kind]) for kind in JUDGED if kind in trial.method.judges]
