"""What a promise is, how it is judged, and what every method promises whatever its noun."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

from testbed.api import Examples, Invalid, Unsupported
from testbed.contract.broken import ADVICE, Broken, require, told
from testbed.contract.limit import Overlong, limited
from testbed.contract.watch import Watch, fingerprint
from testbed.contract.world import World, spread
from testbed.data.overlay import anonymous
from testbed.identity import arguments, describe

Results = Mapping[str, Any]
Act = Callable[["Trial", Examples, Watch], Results]
MISSING = "no-such-name"
PROBES = 8
"""Test rows that a victim is asked, to tell it from another."""


class Promise(NamedTuple):
    """One sentence, and a check that raises `Broken` where it is not true."""

    sentence: str
    check: Callable[[Trial], None]


class Verdict(NamedTuple):
    """What became of a promise: `kept` is None where the method said that it does not apply."""

    sentence: str
    kept: bool | None
    reason: str = ""


class Seen(NamedTuple):
    """The results of a call, their fingerprints, and what it changed."""

    results: Results
    prints: Mapping[str, Any]
    changed: Mapping[str, list[str]]


@dataclass
class Trial:
    """A method called by its noun's `act`: once on rows that carry their history, then on anonymous copies of them."""

    method: Any
    name: str
    world: World
    rows: Examples
    act: Act
    limit: float | None = None

    @cached_property
    def first(self) -> Seen:
        return self._called(self.rows, 1)

    @cached_property
    def second(self) -> Seen:
        return self._called(anonymous(self.rows), 2)

    @cached_property
    def third(self) -> Seen:
        return self._called(anonymous(self.rows), 3)

    def _called(self, rows: Examples, salt: int) -> Seen:
        """The calls, with global random states of their own, so that a method which draws from them is found out."""
        data = self.world.data
        watched = {"training rows": rows, "reserve": data.reserve, "test rows": data.test}
        if self.world.shots is not None:
            watched["the attacker's own rows"] = self.world.shots
        watch = Watch(watched)
        with watch.everything(salt):
            results = self.act(self, rows, watch)
        inputs = data.test[spread(data.test, PROBES)].inputs
        return Seen(results, {name: fingerprint(value, inputs) for name, value in results.items()}, watch.changed)


def judged(promise: Promise, trial: Trial) -> Verdict:
    """Was the promise kept?"""
    try:
        with limited(trial.limit):
            promise.check(trial)
    except Overlong as reason:
        return Verdict(promise.sentence, False, f"{reason}; look for a loop without an end, or say limit= to wait longer")
    except Broken as broken:
        return Verdict(promise.sentence, False, str(broken))
    except Unsupported as reason:
        return Verdict(promise.sentence, None, str(reason))
    except (
        Exception,
        SystemExit,
    ) as error:  # in whatever way: a promise broken, and the others are judged too
        return Verdict(promise.sentence, False, told(error))
    return Verdict(promise.sentence, True)


def documented(trial: Trial) -> None:
    """The class, or the function that builds the object, has a docstring of its own."""
    maker = _maker(trial.method)
    require(bool(vars(maker).get("__doc__") if inspect.isclass(maker) else maker.__doc__), f"{maker.__name__} has no docstring")
    generated = inspect.isclass(maker) and maker.__doc__.startswith(f"{maker.__name__}(")
    require(not generated, f"{maker.__name__} has no docstring but the one that dataclasses make up")


def described(trial: Trial) -> None:
    """`identity.describe` can read every parameter back."""
    try:
        describe(trial.method)
    except TypeError as error:
        raise Broken(str(error)) from error


def runs(trial: Trial) -> None:
    """The method can be called at all."""
    require(bool(trial.first.results), "it gave nothing")


def repeats(trial: Trial) -> None:
    """Equal calls give equal results."""
    one, other = (trial.first, trial.second) if trial.first.prints == trial.second.prints else (trial.second, trial.third)
    require(one.prints == other.prints, f"other results the second time: {', '.join(_differing(one, other))}")


def blind(trial: Trial) -> None:
    """What is not among the rows plays no part."""
    trial.first  # noqa: B018 (it works where the rows carry their history)
    try:
        trial.second  # noqa: B018
    except (Exception, SystemExit) as error:
        raise Broken(f"it fails on an anonymous copy of the rows, which is all that a run gives it: {told(error)}") from error
    alike = trial.first.prints == trial.second.prints or trial.second.prints != trial.third.prints
    require(alike, f"other results on an anonymous copy of the rows: {', '.join(_differing(trial.first, trial.second))}")


def leaves(what: str) -> Callable[[Trial], None]:
    """A check that calls left 'rows', 'model' or 'randomness' as they were."""

    def check(trial: Trial) -> None:
        changed = sorted({*trial.first.changed[what], *trial.second.changed[what]})
        require(not changed, f"changed: {', '.join(changed)}; {ADVICE[what]}")

    return check


def refuses_well(check: Callable[[Trial, Any], None]) -> Callable[[Trial], None]:
    """Each parameter is set to values that cannot be right; `check(trial, method)` must accept, or raise a short `Invalid`."""

    def refuses(trial: Trial) -> None:
        for name, value, make in variants(trial.method):
            try:
                check(trial, make())
            except Unsupported:
                continue
            except Invalid as refusal:
                require("\n" not in str(refusal), f"{name}={value} is refused in more than one line")
            except Exception as error:  # whatever else comes is what the promise is about
                raise Broken(f"{name}={value} gives {told(error)} instead of Invalid; say so in check") from error

    return refuses


def variants(method: Any) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """The method with one parameter set to an absurd value, for each of its numbers and names."""
    if isinstance(method, partial):
        for name, value in method.keywords.items():
            for bad in _absurd(value):
                yield name, bad, partial(partial, method, **{name: bad})
            if isinstance(value, partial):
                for inner, bad, make in variants(value):
                    yield f"{name}.{inner}", bad, lambda name=name, make=make: partial(method, **{name: make()})
        return
    given = arguments(method)
    for name, value in given.items():
        for bad in _absurd(value):
            yield name, bad, partial(type(method), **{**given, name: bad})


def _absurd(value: Any) -> tuple[Any, ...]:
    if isinstance(value, bool):
        return ()
    if isinstance(value, float):
        return (-1.0, math.nan)
    if isinstance(value, int):
        return (-1,)
    return (MISSING,) if isinstance(value, str) else ()


def _maker(method: Any) -> Any:
    made_by = method.func if isinstance(method, partial) else method
    return made_by if inspect.isclass(made_by) or inspect.isfunction(made_by) else type(made_by)


def _differing(one: Seen, other: Seen) -> list[str]:
    return sorted(name for name in {**one.prints, **other.prints} if one.prints.get(name) != other.prints.get(name))
