"""What every method promises, tried on a small world that it applies to and said in plain sentences."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from testbed.api import Attack, Defence, Detector, Invalid, ModelDetector, Splits, Trigger
from testbed.contract.examination import GROUPS, examine
from testbed.contract.promise import Verdict
from testbed.contract.world import World, small_world
from testbed.fit import Settings
from testbed.pipeline.scene import Model
from testbed.record import Origin

SHOWN_POISON = ("defence", "detector")
"""Groups whose methods are shown what the world's attack did."""


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
    elsewhere: bool = True,
    limit: float | None = None,
    worlds: Sequence[Callable[[], Mapping[str, Any]]] = (),
    origin: Origin | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Try the methods that the command line names, each by its noun's promises; 1 if one is broken, otherwise 0.

    A method is judged on these data, or if it does not apply to them on the first of `worlds` that it applies to, unless
    `elsewhere` is false. A method that applies nowhere counts as broken; not to data that were asked for, as passed over.
    `attack` also poisons the rows that defences and detectors are shown; where the command line names none and it does not
    suit the data, the first attack of `worlds` that does. What is still at work after `limit` seconds breaks its promise.

    Raises:
        Invalid: the command line names no method; a parameter of the model or the attack that cannot work; a limit of 0.
    """
    methods = {"attack": attack, "trigger": trigger, "defence": defence, "detector": detector, "model": model}
    origin = origin or Origin()
    named = named_groups(origin.command)
    if not named:
        raise Invalid("", None, f"name what to check: one of {', '.join(f'{group}=' for group in GROUPS)}", component="check")
    given = {"data": data, "model": model, "attack": attack, "trainer": trainer}
    kept = frozenset(given) & named_roots(origin.command)
    if limit is not None and not limit > 0:
        raise Invalid("limit", limit, "must be above 0", "null waits for ever")
    ground = Ground(given, kept, [cache(make) for make in worlds], elsewhere, seed, limit)
    broken, passed_over = 0, []
    for group in named:
        name = origin.names.get(group, type(methods[group]).__name__)
        tried = ground.tried(group, name, methods[group])
        _tell(f"{group}={name} ({_what(methods[group])})", tried, say)
        broken += sum(verdict.kept is False for verdict in tried[-1].verdicts)
        if not tried[-1].applies:
            passed_over.append(f"{group}={name}")
    say(_summary(broken, passed_over, elsewhere))
    return 1 if broken or (passed_over and elsewhere) else 0


class Tried(NamedTuple):
    """What became of a method's promises on the data of this name."""

    where: str
    verdicts: Sequence[Verdict]

    @property
    def applies(self) -> bool:
        """Whether every promise could be judged."""
        return all(verdict.kept is not None for verdict in self.verdicts)

    @property
    def reason(self) -> str:
        """Why some could not."""
        return next((verdict.reason for verdict in self.verdicts if verdict.kept is None), "")


@dataclass(frozen=True)
class Ground:
    """Where methods are tried: the parts that were `given`, of which the user `named` some, and worlds made of other parts."""

    given: Mapping[str, Any]
    named: frozenset[str]
    others: Sequence[Callable[[], Mapping[str, Any]]]
    elsewhere: bool
    seed: int
    limit: float | None = None

    def tried(self, group: str, name: str, method: Any) -> list[Tried]:
        """The trials of a method, the last of them the one that counts: the first where it applies, or that went furthest."""
        found: list[Tried] = []
        for world in self._worlds(group):
            unfit = "" if group == "model" else world.misfit(attacked=group in SHOWN_POISON)
            untried = [Verdict("it can be tried on these data", None, unfit)]
            verdicts = untried if unfit else examine(group, name, method, world, self.limit)
            found.append(Tried(world.data.name, verdicts))
            if found[-1].applies:
                return found
        return sorted(found, key=lambda trial: len(trial.verdicts))

    def _worlds(self, group: str) -> Iterator[World]:
        first = self._world(self.given)
        yield self._poisoned(first) if group in SHOWN_POISON and "attack" not in self.named else first
        for make in self.others if self.elsewhere else ():
            yield self._world({**make(), **{part: self.given[part] for part in self.named - {"data"}}})

    def _world(self, parts: Mapping[str, Any]) -> World:
        return small_world(parts, self.seed)

    def _poisoned(self, world: World) -> World:
        """The world with the first attack that suits it; as it is where none does, or the model does not suit."""
        if world.misfit(attacked=False):
            return world
        attacks = chain([world.attack], (make()["attack"] for make in self.others))
        tried = (replace(world, attack=attack) for attack in attacks)
        return next((one for one in tried if not one.misfit()), world)


def named_groups(command: Sequence[str]) -> list[str]:
    """The groups of methods that the words of a command name, in the order of `GROUPS`."""
    roots = named_roots(command)
    return [group for group in GROUPS if group in roots]


def named_roots(command: Sequence[str]) -> frozenset[str]:
    """What the words of a command set something of."""
    return frozenset(re.split(r"[=./@]", word.lstrip("+~"), maxsplit=1)[0] for word in command if "=" in word)


def shown(verdict: Verdict) -> str:
    """A promise as one line of text."""
    written = (sys.stdout.encoding or "").lower().startswith("utf")
    mark = {True: "✓", False: "✗", None: "–"}[verdict.kept] if written else {True: "ok", False: "NO", None: "--"}[verdict.kept]
    if verdict.kept is None:
        return f"{mark} {verdict.sentence}: does not apply: {verdict.reason}"
    return f"{mark} {verdict.sentence}" + (f": {verdict.reason}" if verdict.reason else "")


def _tell(method: str, tried: Sequence[Tried], say: Callable[[str], None]) -> None:
    """Where the method was judged and how; if nowhere, why not in each place."""
    last = tried[-1]
    say(f"{method} on {last.where}" if last.applies else method)
    for verdict in last.verdicts:
        if verdict.kept is not None:
            say(f"  {shown(verdict)}")
    for trial in () if last.applies else tried:
        say(f"  {shown(Verdict(f'on {trial.where}', None, trial.reason))}")


def _summary(broken: int, passed_over: Sequence[str], elsewhere: bool) -> str:
    said = [f"{broken} promise{'s' * (broken > 1)} broken"] if broken else []
    if passed_over:
        why = "applies to none of the data" if elsewhere else "does not apply to these data; without data= others are tried"
        said.append(f"not examined: {', '.join(passed_over)} ({why})")
    return "; ".join(said) or "every promise is kept"


def _what(method: Any) -> str:
    maker = getattr(method, "func", type(method))
    return f"{maker.__module__}.{maker.__qualname__}"
