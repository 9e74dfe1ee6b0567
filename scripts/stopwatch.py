"""Two ways of doing one thing, timed in turn on two clocks, and the table of their ratios."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

DISAGREE = 1.15
"""Wall and CPU ratios further apart than this factor are said to disagree."""


@dataclass(frozen=True)
class Seconds:
    """Wall time and CPU time (of all threads, and of worker processes that have ended)."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of pairs, the smallest and the largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:6.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Comparison:
    """Seconds of one side over those of the other, pair by pair; `target` is '>= x' or '<= x'."""

    name: str
    above: list[Seconds]
    below: list[Seconds]
    target: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    def ratio(self, clock: str) -> Ratio:
        """Of one clock, 'wall' or 'cpu'."""
        pairs = zip(self.above, self.below, strict=True)
        ratios = [getattr(above, clock) / getattr(below, clock) for above, below in pairs]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    @property
    def clock(self) -> str:
        """The clock that the verdict is on."""
        wall, cpu = self.ratio("wall").median, self.ratio("cpu").median
        return "cpu" if max(wall / cpu, cpu / wall) > DISAGREE else "wall"

    @property
    def verdict(self) -> str:
        """'met' or 'MISSED', on which clock; '' without a target."""
        if not self.target:
            return ""
        relation, limit = self.target.split()
        median = self.ratio(self.clock).median
        met = median >= float(limit) if relation == ">=" else median <= float(limit)
        return f"{'met' if met else 'MISSED'} ({self.clock})"

    def as_dict(self) -> dict[str, object]:
        """Everything measured, as plain data."""
        ratios = {f"{clock}_ratio": asdict(self.ratio(clock)) for clock in ("wall", "cpu")}
        return {**asdict(self), **ratios, "verdict": self.verdict}


def now() -> Seconds:
    """Both clocks as they stand."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime)


def timed(work: Callable[[], object]) -> Seconds:
    """How long one call takes."""
    before = now()
    work()
    after = now()
    return Seconds(after.wall - before.wall, after.cpu - before.cpu)


def interleaved(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Seconds]]:
    """Each in turn, `repeats` times, after one round that does not count."""
    rounds = [{name: timed(work) for name, work in works.items()} for _ in range(repeats + 1)][1:]
    return {name: [one[name] for one in rounds] for name in works}


def middle(times: Sequence[Seconds], clock: str) -> float:
    """The median of one clock."""
    return statistics.median(getattr(one, clock) for one in times)


def show(comparisons: Sequence[Comparison]) -> None:
    """One row for each comparison, its notes below it."""
    for one in comparisons:
        print(f"\n{one.name}")
        for clock in ("wall", "cpu"):
            seconds = f"{middle(one.above, clock):8.3f} s / {middle(one.below, clock):7.3f} s"
            print(f"  {clock:<5}{seconds}   {one.ratio(clock)}   n={len(one.above)}")
        if one.target:
            print(f"  target {one.target}: {one.verdict}")
        for name, note in one.notes.items():
            print(f"  {name}: {note}")
