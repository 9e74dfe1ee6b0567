"""What is searched: dimensions in Hydra's own sweep grammar, on the command line or in a file of `conf/tune`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override, RangeSweep

from testbed.launcher.compose import parsed, values
from testbed.launcher.search import read
from testbed.words import Refused, nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ROOTS = {"defence": ("defence", "detector"), "attack": ("attack", "trigger")}
"""Where the parameters of what is tuned stand in a configuration."""


@dataclass(frozen=True)
class Dimension:
    """One parameter: from `low` to `high`, both included, in steps or not; or else one of `choices`, as they are written."""

    key: str
    text: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    @property
    def first(self) -> Any:
        """One of its values: the first choice, or the lower end."""
        return self.choices[0] if self.choices else int(self.low) if self.whole else self.low

    @property
    def points(self) -> tuple[Any, ...] | None:
        """All values, where they can be listed."""
        if self.choices:
            return self.choices
        if self.step is None or self.log:
            return None
        count = round((self.high - self.low) / self.step) + 1
        found = [self.low + place * self.step for place in range(count)]
        return tuple(int(value) for value in found) if self.whole else tuple(float(f"{value:.12g}") for value in found)

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return FloatDistribution(self.low, self.high, step=self.step, log=self.log)

    def word(self, value: Any) -> str:
        """The override that sets this value, to four digits where more would do: a trial is what its words say."""
        if self.choices or self.whole or self.step is not None:
            return f"{self.key}={value}"
        short = float(f"{value:.4g}")
        return f"{self.key}={short if self.low <= short <= self.high else value}"


def dimension(override: Override) -> Dimension:
    """What a word of sweep grammar spans: interval, tag(log,interval), range, or choices.

    Raises:
        Refused: it spans nothing, or what no search can span.
    """
    text, key = str(override.input_line), override.get_key_element()
    told = text.partition("=")[2]
    sweep: Any = override.value()
    tags = set(getattr(sweep, "tags", ()) or ())
    if tags - {"log"}:
        raise Refused(f"{text}: there is no tag {sorted(tags - {'log'})[0]} to search by; only log is one")
    if override.is_interval_sweep():
        found = Dimension(key, told, sweep.start, sweep.end, log="log" in tags, whole=isinstance(sweep.start, int))
        found = _stepped(found, 1) if found.whole else found
    elif isinstance(sweep, RangeSweep):
        found = _ranged(key, told, override, log="log" in tags)
    elif tags:
        raise Refused(f"{text}: choices have no order, so that there is no log of them; say tag(log,interval(LOW,HIGH))")
    else:
        found = Dimension(key, told, choices=tuple(dict.fromkeys(values(override))))
    _require_sensible(found, text)
    return found


def _ranged(key: str, told: str, override: Override, *, log: bool) -> Dimension:
    numbers = [float(value) for value in values(override)]
    sweep: Any = override.value()
    whole = all(isinstance(part, int) for part in (sweep.start, sweep.stop, sweep.step))
    if log and not (whole and abs(sweep.step) == 1):
        raise Refused(f"{key}={told}: a log range has no steps; say tag(log,interval(LOW,HIGH)), or int(...) of it")
    return _stepped(Dimension(key, told, min(numbers), max(numbers), log=log, whole=whole), abs(sweep.step))


def _stepped(found: Dimension, step: float) -> Dimension:
    return Dimension(found.key, found.text, found.low, found.high, step, found.log, found.whole)


def _require_sensible(found: Dimension, text: str) -> None:
    if found.choices:
        if len(found.choices) < 2:
            raise Refused(f"{text}: there is only one value to choose; say {found.key}={found.choices[0]}")
        return
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise Refused(f"{text}: a search needs two finite ends")
    if found.low >= found.high:
        raise Refused(f"{text}: the range is empty, or has one value only; the lower end comes first")
    if found.log and found.low <= 0:
        raise Refused(f"{text}: the log of {found.low:g} is not a number; begin above 0")


def space(overrides: Sequence[Override], kind: str, path: Path | None) -> dict[str, Dimension]:
    """The dimensions that the command line names or, where it names none, those of a file that it does not fix.

    Raises:
        Refused: neither names any; a dimension is no parameter of what is tuned, or stands there twice.
    """
    swept = [override for override in overrides if override.is_sweep_override()]
    fixed = {override.get_key_element() for override in overrides if not override.is_sweep_override()}
    if not swept and path is not None:
        swept = [override for override in _stored(path) if override.get_key_element() not in fixed]
    if not swept:
        where = f"or all of conf/tune/{path.stem}.yaml is fixed" if path else "and conf/tune has no file of this name"
        raise Refused(f"nothing is searched: no word has a range in it, {where}; say '{kind}.KEY=interval(LOW,HIGH)'")
    found: dict[str, Dimension] = {}
    for override in swept:
        key = override.get_key_element()
        if key.lstrip("+").partition(".")[0].partition("/")[0].partition("@")[0] not in ROOTS[kind]:
            raise Refused(f"{override.input_line}: only parameters of the {kind} are searched; give this one value")
        if key in found or key in fixed:
            raise Refused(f"{override.input_line}: {key} is given twice; say it once")
        found[key] = dimension(override)
    return found


def _stored(path: Path) -> list[Override]:
    """The `search` of a file: a mapping of keys to sweep grammar."""
    told = read(path) or {}
    listed = told.get("search") if isinstance(told, Mapping) else None
    if not isinstance(listed, Mapping) or not listed or set(told) != {"search"}:
        raise Refused(f"{path.name}: search: must map keys to ranges, and nothing stands beside it")
    found = [parsed(f"{key}={text}") for key, text in listed.items()]
    for override in found:
        if not override.is_sweep_override():
            raise Refused(f"{path.name}: {override.input_line}: this is no range; say interval(LOW,HIGH), or a,b,c")
    return found


def listed(dimensions: Mapping[str, Dimension], most: int) -> list[dict[str, Any]] | None:
    """All points of a space that can be listed and has at most so many; None where it cannot or has more."""
    axes = [found.points for found in dimensions.values()]
    if any(axis is None for axis in axes) or math.prod(len(axis or ()) for axis in axes) > most:
        return None
    return [dict(zip(dimensions, point, strict=True)) for point in product(*(axis or () for axis in axes))]


def space_file(name: str | None, method: str, options: Mapping[str, Path]) -> Path | None:
    """The file in `conf/tune` that is asked for, or the one that is called as the method is.

    Raises:
        Refused: what is asked for is not there.
    """
    if name is not None and name not in options:
        raise Refused(f"tune={name}: there is no such search space; {nearest(name, sorted(options))}")
    return options.get(name or method)
