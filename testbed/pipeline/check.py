"""What every method promises, tried on a small world and said in plain sentences."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from testbed.api import Attack, Defence, Detector, Invalid, ModelDetector, Splits, Trigger
from testbed.contract.examination import GROUPS, examine
from testbed.contract.promise import Verdict
from testbed.contract.world import World, small
from testbed.fit import Settings
from testbed.pipeline.scene import Model
from testbed.record import Origin


def check(
    *,
    data: Splits,
    model: Model,
    trainer: Settings,
    attack: Attack,
    trigger: Trigger,
    defence: Defence,
    detector: Detector | ModelDetector | None,
    seed: int,
    origin: Origin | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Try the methods that the command line names, each by its noun's promises: 0 if all are kept, 1 if one is broken.

    `attack` also poisons the rows that defences and detectors are shown.

    Raises:
        Invalid: the command line names no method.
    """
    methods = {"attack": attack, "trigger": trigger, "defence": defence, "detector": detector, "model": model}
    origin = origin or Origin()
    named = named_groups(origin.command)
    if not named:
        raise Invalid("", None, f"name what to check: one of {', '.join(f'{group}=' for group in GROUPS)}", component="check")
    world = World(small(data), model, attack, trainer, seed)
    broken = 0
    for group in named:
        name = origin.names.get(group, type(methods[group]).__name__)
        verdicts = examine(group, name, methods[group], world)
        say(f"{group}={name} ({_what(methods[group])})")
        for verdict in verdicts:
            say(f"  {shown(verdict)}")
        broken += sum(verdict.kept is False for verdict in verdicts)
    say("every promise is kept" if not broken else f"{broken} promise{'s' * (broken > 1)} broken")
    return 1 if broken else 0


def named_groups(command: Sequence[str]) -> list[str]:
    """The groups of methods that the words of a command name, in the order of `GROUPS`."""
    roots = {re.split(r"[=./@]", word.lstrip("+~"), maxsplit=1)[0] for word in command if "=" in word}
    return [group for group in GROUPS if group in roots]


def shown(verdict: Verdict) -> str:
    """A promise as one line of text."""
    written = (sys.stdout.encoding or "").lower().startswith("utf")
    mark = {True: "✓", False: "✗", None: "–"}[verdict.kept] if written else {True: "ok", False: "NO", None: "--"}[verdict.kept]
    if verdict.kept is None:
        return f"{mark} {verdict.sentence}: does not apply: {verdict.reason}"
    return f"{mark} {verdict.sentence}" + (f": {verdict.reason}" if verdict.reason else "")


def _what(method: Any) -> str:
    maker = getattr(method, "func", type(method))
    return f"{maker.__module__}.{maker.__qualname__}"
