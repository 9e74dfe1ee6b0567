"""Measures that some runs ended too soon to have: a median or a bound, never the mean of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from testbed.leaderboard import Cell
from testbed.page.measure import Measure
from testbed.statistics import kaplan_meier_median
from testbed.table import number

Time = tuple[float | None, float | None]
"""A value, or what it is known to be greater than; neither where a run does not tell."""


class Censored(NamedTuple):
    """What a cell says then: `value` to sort by, None where there is no median; `n` says how many `models` it rests on."""

    value: float | None
    text: str
    n: str
    models: int


def censored(cell: Cell, measure: Measure) -> Censored | None:
    """The Kaplan-Meier median over models, or what it is greater than; every model where one tells neither value nor bound.

    None where every run has a value, and where none has either: there is nothing to tell.
    """
    models = _models(cell, measure) if measure.limit else []
    runs = [time for draws in models for time in draws]
    if all(value is not None for value, _ in runs) or all(time == (None, None) for time in runs):
        return None
    whole = [draws for draws in models if (None, None) not in draws]
    if len(whole) < len(models):
        each = " ".join("/".join(_shown(*time) for time in draws) for draws in models)
        return Censored(None, each, f"n = {len(whole)} of {len(models)}", len(whole))
    value, bound = _median([_median(draws) for draws in models])
    found = bound if value is None else value
    return Censored(found, _shown(value, bound), f"n = {len(models)}, median", len(models))


def _models(cell: Cell, measure: Measure) -> list[list[Time]]:
    """By model, its runs: seeds that attack one and the same model are draws of it."""
    groups: dict[str, list[Time]] = {}
    for trial in cell.done:
        time = (trial.measures.get(measure.name), trial.measures.get(measure.limit))
        groups.setdefault(trial.model or f"seed {trial.seed}", []).append(time)
    return list(groups.values())


def _median(times: Sequence[Time]) -> Time:
    known = [float(bound if value is None else value) for value, bound in times]  # type: ignore[arg-type]  # never neither
    median = kaplan_meier_median(known, [value is not None for value, _ in times])
    return (median, None) if median is not None else (None, max(known))


def _shown(value: float | None, bound: float | None) -> str:
    return f"> {number(bound)}" if value is None and bound is not None else number(value).replace("-", "–")
