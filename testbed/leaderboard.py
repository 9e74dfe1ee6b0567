"""What a comparison comes to: trials gathered into cells, each with its seeds, intervals and differences, and standings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from testbed.statistics import Interval


@dataclass(frozen=True)
class Trial:
    """One run as a comparison sees it: where it stands in the grid, how it ended, what it measured and what it cost.

    `status` is that of the run, or 'missing' where it was asked for and never made. `seconds` and `peak_memory` (bytes) are
    of the method's own phase. `declared`: a suite asks for it; `adaptive`: the attack was made for this very method.
    """

    world: str
    attack: str
    rate: float | None
    method: str
    seed: int
    status: str
    reason: str = ""
    measures: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    peak_memory: int | None = None
    folder: str = ""
    declared: bool = True
    adaptive: bool = False


class Spread(NamedTuple):
    """A measure over the seeds of a cell.

    `interval` is Student's, for spread that is bell-shaped; `guaranteed` holds whatever the spread of a number in 0..1 is, and
    is None for other numbers. `seeds` map each seed to its value.
    """

    interval: Interval
    guaranteed: Interval | None
    seeds: Mapping[int, float]


class Contrast(NamedTuple):
    """A measure minus that of the baseline on the same seeds and poison; `p` None below 6 pairs, `corrected` after Holm."""

    difference: Interval
    p: float | None
    corrected: float | None


@dataclass(frozen=True)
class Cell:
    """Trials that differ in their seed alone. `weak`: the attack is not 10 points above its clean twin: nothing to defeat."""

    world: str
    attack: str
    rate: float | None
    method: str
    trials: tuple[Trial, ...]
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    contrasts: Mapping[str, Contrast] = field(default_factory=dict)
    weak: bool = False
    counted: bool = True
    rank: float | None = None


@dataclass(frozen=True)
class Standing:
    """A method over all counted cells that are not weak: means, and the worst case beside each.

    `cells` were measured of `wanted`; a method that lacks some has no rank. `adaptive` names the attacks made for this very
    method that it was tried against, with the success of each before and after.
    """

    method: str
    world: str | None
    cells: int
    wanted: int
    n: int
    mean_rank: float | None
    worst_rank: float | None
    means: Mapping[str, float] = field(default_factory=dict)
    worst: Mapping[str, float] = field(default_factory=dict)
    adaptive: tuple[str, ...] = ()
    failed: int = 0


@dataclass(frozen=True)
class Leaderboard:
    """A comparison, of a suite (`hash` and `departures` say how closely) or of whatever runs a folder holds (`hash` is '')."""

    title: str
    verb: str
    hash: str
    departures: tuple[str, ...]
    clean_budget: str
    cells: tuple[Cell, ...]
    standings: tuple[Standing, ...]
    missing: Sequence[str] = ()
