"""What a comparison comes to: trials gathered into cells, each with its seeds, intervals and differences, and standings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from testbed.plan import labelled
from testbed.statistics import Interval

Row = tuple[str, str, float | None]
"""World, attack and rate: what methods are compared on."""
Repetition = tuple[int, int]
"""Seed and trial."""


@dataclass(frozen=True)
class Placed:
    """Something of a method on a row of the grid."""

    world: str
    attack: str
    rate: float | None
    method: str

    @property
    def row(self) -> Row:
        """What it shares with the other methods that it is compared with."""
        return self.world, self.attack, self.rate

    @property
    def label(self) -> str:
        """For people: 'digits badnets 0.05 fine_tuning'."""
        return labelled(*self.row, self.method)


@dataclass(frozen=True)
class Trial(Placed):
    """One run as a comparison sees it: where it stands in the grid, how it ended, what it measured and what it cost.

    `status` is that of the run, or 'missing' where it was asked for and never made. `seconds` and `peak_memory` (bytes) are
    of the method's own phase. `declared`: a suite asks for it; `adaptive`: the attack was made for this very method. `poison`
    names the attacker's rows, `data` all rows that there were before the attack; equal `model` (the aligned one of a chat
    model) tells that seeds attack one and the same model; `victims` are the keys of the models by role, `undefended` and
    `clean_twin`; `names` are the options that were chosen, such as data and model. `targeted`: the attack was made for one
    target or pair of classes, drawn for each `trial`, so that its success is one outcome among many.
    """

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
    poison: str = ""
    data: str = ""
    model: str = ""
    victims: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    trial: int = 0
    targeted: bool = False

    @property
    def label(self) -> str:
        """For people: 'digits badnets 0.05 fine_tuning s0'; of a targeted attack with the trial, '... s0 t3'."""
        return f"{super().label} {self.turn}"

    @property
    def turn(self) -> str:
        """Which of a cell's runs it is, for people: 's0', or of a targeted attack 's0 t3'."""
        return f"s{self.seed}{f' t{self.trial}' if self.targeted or self.trial else ''}"

    @property
    def turn_in_words(self) -> str:
        """The same in words: 'seed 0', or 'seed 0, trial 3'."""
        return f"seed {self.seed}{f', trial {self.trial}' if self.targeted or self.trial else ''}"

    @property
    def repetition(self) -> Repetition:
        """What tells it from the other runs of its cell, and pairs it with those of others."""
        return self.seed, self.trial


class Spread(NamedTuple):
    """A measure over the seeds of a cell.

    `interval` is Student's, for spread that is bell-shaped; `guaranteed` holds whatever the spread of a number in 0..1 is, and
    is None for other numbers. `seeds` map each seed to its value, the mean of its draws where an attack was drawn repeatedly;
    the n of an interval are models, so that it is less than the seeds where these attack one and the same model.

    Where each run is a trial of a targeted attack and the measure tells how it ended, `trials` map each to its outcome, and
    `interval` is Wilson's over these: n are the trials. It speaks of further targets for models of these seeds.
    """

    interval: Interval
    guaranteed: Interval | None
    seeds: Mapping[int, float]
    trials: Mapping[Repetition, float] | None = None


class Contrast(NamedTuple):
    """A measure minus that of the baseline on the same seeds (and trials) and poison; its n are pairs.

    Outcomes of trials are paired one by one, and have no interval of their difference: Student's would not hold for them.

    `p` (of sign flips) is None below 6 pairs; `corrected` is p after Holm's correction over the families of the suite, and None
    in a row that is not counted or of a measure that is in no family. Without `corrected` there is no mark of significance.
    `fewest` are the pairs below which no test of its family can have a mark, whatever the differences are (more where a family
    is larger); None where it is in no family.
    """

    difference: Interval
    p: float | None
    corrected: float | None
    fewest: int | None = None

    @property
    def decidable(self) -> bool:
        """Whether it is tested with enough pairs that a mark is possible at all."""
        return self.fewest is not None and self.difference.n >= self.fewest


@dataclass(frozen=True)
class Cell(Placed):
    """Trials that differ in their seed alone. `weak`: the attack is not 10 points above its clean twin: nothing to defeat.

    `unknown`: no run tells success on the clean twin beside success undefended, so that nobody knows whether it is weak; such
    a row is not counted. `counted`: its row enters ranks and means unless it is weak; `rank` is 1 for the best of the methods
    that are ranked.
    """

    trials: tuple[Trial, ...]
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    contrasts: Mapping[str, Contrast] = field(default_factory=dict)
    weak: bool = False
    unknown: bool = False
    counted: bool = True
    rank: float | None = None

    @property
    def done(self) -> list[Trial]:
        """The trials that went well."""
        return [trial for trial in self.trials if trial.status == "done"]


@dataclass(frozen=True)
class Standing:
    """A method over all counted cells that are not weak: means, and the worst case beside each.

    `world` is None for all worlds together. `cells` were measured, on every seed that was asked for, of `wanted`; a method that
    lacks some has no rank. `n` are the runs behind the means, in which every cell weighs the same. `partial` says of each mean
    (and worst case) that not every counted row is whole in, on how many it rests ('1 of 2 cells'): it compares with no other.
    `adaptive` names the attacks made for this very method that it was tried against, with the success of each before and after.
    `failed` counts runs that were made and ended badly, in whatever cell.
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
    partial: Mapping[str, str] = field(default_factory=dict)
    adaptive: tuple[str, ...] = ()
    failed: int = 0


class Population(NamedTuple):
    """What a detector of backdoored models makes of all models of a world, each counted once.

    `auroc` is that of the anomaly index between victims of attacks that are not weak and models that nobody attacked, with
    Newcombe's interval, None where either are lacking. `flagged_clean` and `flagged_backdoored` are rates with Wilson's
    intervals, None without a model and of a detector that has no rule by which it flags.
    """

    world: str
    method: str
    auroc: Interval | None
    clean: int
    backdoored: int
    flagged_clean: Interval | None
    flagged_backdoored: Interval | None


@dataclass(frozen=True)
class Leaderboard:
    """A comparison, of a suite (`hash` and `departures` say how closely) or of whatever runs a folder holds (`hash` is '').

    `baseline` is the method that differences are taken from, `missing` names every trial that is not done, with the reason, and
    `unpaired` cells with seeds that could not be compared with the baseline, as their poison, model or data are others.
    `left_out` are the attacked rows by which nobody is ranked, each with the reason.
    """

    title: str
    verb: str
    hash: str
    departures: tuple[str, ...]
    clean_budget: str
    cells: tuple[Cell, ...]
    standings: tuple[Standing, ...]
    missing: Sequence[str] = ()
    baseline: str | None = None
    populations: tuple[Population, ...] = ()
    unpaired: tuple[str, ...] = ()
    left_out: Mapping[Row, str] = field(default_factory=dict)

    @property
    def wanted(self) -> int:
        """The runs that were asked for."""
        return sum(len(cell.trials) for cell in self.cells)

    @property
    def done(self) -> int:
        """The runs that were made and went well."""
        return sum(len(cell.done) for cell in self.cells)
