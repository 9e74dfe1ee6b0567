"""All promises of a method, by its noun, judged one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from testbed.api import Attack, Defence, Detector, Examples, Invalid, ModelDetector, Unreadable, Unsupported
from testbed.contract import attack, defence, detector, model, trigger
from testbed.contract.promise import (
    Act,
    Promise,
    Trial,
    Verdict,
    blind,
    described,
    documented,
    judged,
    leaves,
    refuses_well,
    repeats,
    require,
    runs,
)
from testbed.contract.world import World, shortened

GROUPS = ("attack", "trigger", "defence", "detector", "model")

SETTLED = (
    Promise("it has a docstring", documented),
    Promise("its parameters can be read back from its attributes", described),
)
RUNS = Promise("it does its work without an error", runs)
CALLED = (
    Promise("the same call gives the same result, whatever the global random state", repeats),
    Promise("it leaves the global random states of torch, NumPy and Python as they were", leaves("randomness")),
    Promise("it leaves the rows that it is given as they were", leaves("rows")),
)
SHOWN_A_MODEL = Promise("it leaves the model that it is given as it was: weights, mode, gradients, hooks", leaves("model"))
BLIND = Promise("it sees rows only: an anonymous copy of them gives the same result", blind)


class Noun(NamedTuple):
    """What a group's methods are, how they are called and checked, and what they promise."""

    base: type | None
    act: Act
    accepts: Callable[[Trial, Any], None]
    promises: tuple[Promise, ...]


ATTACK = Noun(Attack, attack.act, attack.accepts, (SHOWN_A_MODEL, *attack.PROMISES))
TRIGGER = Noun(None, trigger.act, trigger.accepts, trigger.PROMISES)
DEFENCE = Noun(Defence, defence.act, defence.accepts, (SHOWN_A_MODEL, BLIND, *defence.PROMISES))
DETECTOR = Noun(Detector, detector.act, defence.accepts, (SHOWN_A_MODEL, BLIND, *detector.PROMISES, defence.PROMISES[-1]))
MODEL_DETECTOR = Noun(
    ModelDetector, detector.inspect_act, defence.accepts, (SHOWN_A_MODEL, BLIND, *detector.MODEL_PROMISES, defence.PROMISES[-1])
)
MODEL = Noun(None, model.act, model.accepts, (SHOWN_A_MODEL, *model.PROMISES))


def examine(group: str, name: str, method: Any, world: World, limit: float | None = None) -> list[Verdict]:
    """Every promise of a method that was configured as `group=name`, and what became of it.

    Where the method refuses to work at all, as unsupported or by an error, there is nothing more to judge after that; nor
    where it is still at work after `limit` seconds.
    """
    noun = _noun(group, method)
    if noun.base is not None and not isinstance(method, noun.base):
        return [Verdict(f"it is a testbed.api.{noun.base.__name__}", False, f"{type(method).__name__} is not derived from it")]
    if group == "model":
        world = replace(world, model=method)
    trial = Trial(method, name, world, _rows(group, world), noun.act, limit)
    accepts = Promise("it accepts these settings on these data and this model", lambda trial: _accepted(trial, noun))
    verdicts = [judged(promise, trial) for promise in (*SETTLED, accepts)]
    if verdicts[-1].kept is not True:
        return verdicts
    trial = _quick(trial, noun)
    refuses = Promise("it refuses impossible values with Invalid, in one line", refuses_well(noun.accepts))
    verdicts += [judged(refuses, trial), judged(RUNS, trial)]
    if verdicts[-1].kept is not True:
        return verdicts
    return verdicts + [judged(promise, trial) for promise in (*CALLED, *noun.promises)]


def _noun(group: str, method: Any) -> Noun:
    if group == "detector":
        return MODEL_DETECTOR if isinstance(method, ModelDetector) else DETECTOR
    return {"attack": ATTACK, "trigger": TRIGGER, "defence": DEFENCE, "model": MODEL}[group]


def _rows(group: str, world: World) -> Examples:
    """Clean rows for an attacker and for a model; for a defender the poisoned ones, with a history that it should not read."""
    return world.mixed.examples if group in ("defence", "detector") else world.data.train


def _accepted(trial: Trial, noun: Noun) -> None:
    try:
        noun.accepts(trial, trial.method)
    except Unreadable as refusal:
        raise Unsupported(str(refusal)) from refusal
    except Invalid as refusal:
        require(False, f"it refuses them: {refusal}")


def _quick(trial: Trial, noun: Noun) -> Trial:
    """The same trial of a method that works for a short time, if the method takes so short a time."""
    quick = replace(trial, method=shortened(trial.method))
    try:
        noun.accepts(quick, quick.method)
    except (Invalid, Unsupported):
        return trial
    return quick
