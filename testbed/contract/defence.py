"""What a defence promises."""

from __future__ import annotations

import copy
from typing import Any

import torch

from testbed.api import Defence, DefenderResources, Examples
from testbed.contract.promise import Promise, Results, Trial, require
from testbed.contract.victim import require_loss, require_model, require_rows, require_victim
from testbed.contract.watch import Watch
from testbed.data.overlay import anonymous
from testbed.identity import overrides

IN_TRAINING = ("during_alignment", "during_training")


def act(trial: Trial, rows: Examples, watch: Watch) -> Results:
    """The stages that the defence overrides, in the order of a run; the victim is trained by it if it acts in training.

    Alignment is on the clean rows.
    """
    defence, world = trial.method, trial.world
    resources, results = resources_of(trial, rows), {}

    def stage(name: str, given: Any) -> Any:
        if not overrides(defence, Defence, name):
            return given
        with watch.models(given, *(resources.reference or ())):
            results[name] = getattr(defence, name)(given, resources)
        return results[name]

    victim = copy.deepcopy(world.victim)
    if overrides(defence, Defence, "during_alignment", "before_training", "during_training"):
        start = world.fresh()
        if overrides(defence, Defence, "during_alignment"):
            wrapped = _model("during_alignment", stage("during_alignment", start))
            start = world.fit(wrapped, anonymous(world.data.train)).bare()
        chosen = stage("before_training", rows)
        require_rows("before_training", chosen, rows, len(world.data.task.classes))  # told before training fails on them
        victim = world.fit(_model("during_training", stage("during_training", start)), chosen)
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
    test, classes = trial.world.data.test, len(trial.world.data.task.classes)
    for name, result in trial.first.results.items():
        if name == "before_training":
            require_rows(name, result, trial.rows, classes)
        elif name != "nothing":
            require_victim(name, result, test[torch.arange(len(test))].inputs, classes)
        if name in IN_TRAINING:
            require_loss(result, trial.rows)


def oracle_says_so(trial: Trial) -> None:
    """`oracle` is True only where the name shows it."""
    honest = not trial.method.oracle or "oracle" in f"{trial.name} {type(trial.method).__name__}".lower()
    require(honest, f"{trial.name} asks which rows are poisoned; call it oracle, or do without")


PROMISES = (
    Promise("each stage returns what the next one reads", returns_what_comes_next),
    Promise("it is told the answers only if it says oracle in its name", oracle_says_so),
)


def _model(name: str, given: Any) -> Any:
    """What can be trained at all, for whatever else is wrong with it is told apart."""
    require_model(name, given)
    return given
