"""What a defence promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from testbed.api import Defence, DefenderResources, Examples, Victim
from testbed.contract.promise import Promise, Results, Trial, require
from testbed.contract.watch import Watch, said
from testbed.identity import overrides

STAGES = ("during_alignment", "before_training", "during_training", "after_training", "at_inference")


def act(trial: Trial, rows: Examples, watch: Watch) -> Results:
    """The stages that the defence overrides, in the order of a run; the victim is trained by it if it acts in training."""
    defence, world = trial.method, trial.world
    resources, results = resources_of(trial, rows), {}

    def stage(name: str, given: Any) -> Any:
        if not overrides(defence, Defence, name):
            return given
        results[name] = _watched(getattr(defence, name), given, resources, watch)
        return results[name]

    victim = copy.deepcopy(world.victim)
    if overrides(defence, Defence, "during_alignment"):
        victim = stage("during_alignment", victim)
    if overrides(defence, Defence, "before_training", "during_training"):
        chosen = stage("before_training", rows)
        victim = world.fit(stage("during_training", world.fresh()), chosen)
    stage("at_inference", stage("after_training", victim))
    return results or {"nothing": None}


def resources_of(trial: Trial, rows: Examples) -> DefenderResources:
    """What a run would give to this method."""
    return trial.world.defender(rows, trial.world.mixed.flags if trial.method.oracle else None)


def accepts(trial: Trial, method: Any) -> None:
    """The method's own check."""
    method.check(resources_of(trial, trial.rows))


def returns_what_comes_next(trial: Trial) -> None:
    """Rows where rows were handed in, otherwise a victim that answers, and has a loss if it is to be trained."""
    for name, result in trial.first.results.items():
        if name == "before_training":
            _require_rows(result)
        elif name != "nothing":
            require(isinstance(result, Victim), f"{name} gave {type(result).__name__}, not a Victim")
            _require_answers(name, result, trial)
    if "during_training" in trial.first.results:
        batch = trial.rows[torch.arange(8)]
        loss = copy.deepcopy(trial.first.results["during_training"]).train().loss(batch)
        require(loss.dim() == 0 and bool(loss.isfinite()), f"the loss of the wrapped model is {loss.detach()}")


def oracle_says_so(trial: Trial) -> None:
    """`oracle` is True only where the name shows it."""
    honest = not trial.method.oracle or "oracle" in f"{trial.name} {type(trial.method).__name__}".lower()
    require(honest, f"{trial.name} asks for the answers")


PROMISES = (
    Promise("each stage returns what the next one reads", returns_what_comes_next),
    Promise("it is told the answers only if it says oracle in its name", oracle_says_so),
)


def _watched(call: Callable[..., Any], given: Any, resources: DefenderResources, watch: Watch) -> Any:
    if not isinstance(given, Victim):
        return call(given, resources)
    with watch.model(given):
        return call(given, resources)


def _require_rows(rows: Any) -> None:
    require(isinstance(rows, Examples), f"before_training gave {type(rows).__name__}, which cannot be read in batches")
    require(len(rows) > 0, "before_training left no rows")
    places = torch.arange(0, len(rows), 2)
    batch = rows[places]
    require(torch.equal(batch.rows, places), "before_training's rows are not numbered from 0")
    require(len(batch.labels) == len(batch.inputs) == len(places), "before_training gives other numbers of rows than asked for")


def _require_answers(name: str, victim: Victim, trial: Trial) -> None:
    test, classes = trial.world.data.test, len(trial.world.data.task.classes)
    batch = test[torch.arange(len(test))]
    answers, logits = said(victim, batch.inputs)
    if isinstance(answers, Tensor):
        require(answers.shape == (len(test),) and answers.dtype == torch.int64, f"{name}'s answers are not int64 (B,)")
        require(bool(((answers >= -1) & (answers < classes)).all()), f"{name}'s answers lie outside -1 to {classes - 1}")
        require(logits.shape == (len(test), classes), f"{name}'s logits are {tuple(logits.shape)}, not (B, {classes})")
        require(bool(logits.isfinite().all()), f"{name}'s logits are not finite")
