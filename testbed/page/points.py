"""Boards as tidy rows, which charts share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from testbed.cell import by_model, complete
from testbed.leaderboard import Cell, Leaderboard
from testbed.page.censored import censored
from testbed.page.measure import Measure
from testbed.page.place import against, marks, rate
from testbed.plan import CLEAN
from testbed.statistics import Interval, over_seeds

Row = dict[str, Any]

EVERY = "all ranked attacks, mean"
"""The choice that averages over every attack that counts and is not weak."""


def of_cells(board: Leaderboard, measures: Sequence[Measure]) -> list[Row]:
    """A row a cell and measure: mean, interval, n, and how good the mean is (0..1, None where weak or of no direction).

    What a cell does not measure has no row, what failed has one without a mean.
    """
    planned = bool(board.hash)
    bounds = {measure.name: _range(board, measure) for measure in measures}
    return [
        _of_cell(cell, measure, bounds[measure.name], planned=planned)
        for cell in board.cells
        for measure in measures
        if measure.name in cell.spreads or len(cell.done) < len(cell.trials)
    ]


def _of_cell(cell: Cell, measure: Measure, bounds: tuple[float, float], *, planned: bool) -> Row:
    spread = cell.spreads.get(measure.name)
    row: Row = {"world": cell.world, "attack": cell.attack, "rate": rate(cell), "dose": cell.rate, "method": cell.method}
    row |= {"against": against(cell), "measure": measure.name, "weak": cell.weak}
    words = [word for word in marks(cell, planned=planned) if word != "not ranked"]
    bound = censored(cell, measure)
    if bound is not None:
        told = f"{bound.text} ({bound.n})"
        return {**row, "n": bound.models, "label": bound.text, "below": bound.n, "told": told, "marks": ", ".join(words)}
    if spread is None:
        return {**row, "n": 0, "label": "–", "below": ", ".join(words) or "n = 0"}
    mean, low, high, n = spread.interval
    scaled = (mean - bounds[0]) / (bounds[1] - bounds[0]) if bounds[1] > bounds[0] else 0.5
    good = None if cell.weak or cell.unknown or not measure.better else scaled if measure.better > 0 else 1 - scaled
    shown = f"{measure.shown(mean)} {measure.interval(spread.interval)}".strip()
    short = [word for word in words if word in ("weak", "unknown", "adaptive")]
    if measure.share and low is not None and high is not None:
        low, high = max(low, 0.0), min(high, 1.0)
    row |= {"mean": mean, "low": low, "high": high, "n": n, "good": good, "label": measure.shown(mean)}
    basis = f"n={n}" if spread.trials is None else measure.basis(spread)
    return {**row, "below": " ".join([*short, basis]), "told": f"{shown} ({measure.basis(spread)})", "marks": ", ".join(words)}


def _range(board: Leaderboard, measure: Measure) -> tuple[float, float]:
    """What colours span: 0..1 for shares, else from the least to the greatest mean."""
    if measure.share or measure.name == "auroc":
        return 0.0, 1.0
    means = [cell.spreads[measure.name].interval.mean for cell in board.cells if measure.name in cell.spreads]
    return (min(means), max(means)) if means else (0.0, 1.0)


def of_seeds(board: Leaderboard, measures: Sequence[Measure]) -> list[Row]:
    """A row a seed, cell and measure."""
    return [
        {
            **{"world": cell.world, "against": against(cell), "attack": cell.attack, "rate": rate(cell), "dose": cell.rate},
            **{"method": cell.method, "measure": measure.name, "seed": seed, "value": value},
        }
        for cell in board.cells
        for measure in measures
        if measure.name in cell.spreads
        for seed, value in cell.spreads[measure.name].seeds.items()
    ]


def trade_off(board: Leaderboard, x: Measure, y: Measure) -> tuple[list[Row], list[Row]]:
    """Methods by utility and safety, one set for each attack and one for their mean: means with intervals, and seeds.

    Utility is `x` and safety is `y`, turned round where less is better. A method that lacks a seed of an attack that others
    have is in no mean over attacks.
    """
    means: list[Row] = []
    seeds: list[Row] = []
    for world in dict.fromkeys(cell.world for cell in board.cells):
        here = [cell for cell in board.cells if cell.world == world and cell.attack != CLEAN]
        for place, methods in _places(here, x, y).items():
            found = {name: values for name, cells in methods.items() if (values := _values(cells, x, y))}
            made = [_mean_row(world, place, name, values, methods[name]) for name, values in found.items()]
            _mark_front(made)
            _name(made)
            means += made
            seeds += [
                {"world": world, "place": place, "method": name, "seed": seed, "utility": pair[0], "safety": pair[1]}
                for name, values in found.items()
                for seed, pair in values.items()
            ]
    return means, seeds


def _places(cells: Sequence[Cell], x: Measure, y: Measure) -> dict[str, dict[str, list[Cell]]]:
    """By attack (or their mean): by method, its cells; in the mean only methods that have every cell of anybody whole."""
    places: dict[str, dict[str, list[Cell]]] = {}
    told = {against(cell) for cell in cells if x.name in cell.spreads and y.name in cell.spreads}
    counted = [cell for cell in cells if cell.counted and not cell.weak and against(cell) in told]
    wanted = {against(cell) for cell in counted}
    ranked = [cell for cell in counted if complete(cell, x.name) and complete(cell, y.name)]
    if len(wanted) > 1:
        mean: dict[str, list[Cell]] = {}
        for cell in ranked:
            mean.setdefault(cell.method, []).append(cell)
        places[EVERY] = {name: found for name, found in mean.items() if {against(cell) for cell in found} == wanted}
    for cell in cells:
        name = f"{against(cell)} (weak)" if cell.weak else against(cell)
        places.setdefault(name, {})[cell.method] = [cell]
    return places


def _values(cells: Sequence[Cell], x: Measure, y: Measure) -> dict[int, tuple[float, float]]:
    """By seed: the mean over cells of utility and safety, for the seeds that every cell has."""
    if any(x.name not in cell.spreads or y.name not in cell.spreads for cell in cells):
        return {}
    seeds = set.intersection(*(set(cell.spreads[m.name].seeds) for cell in cells for m in (x, y)))

    def turned(measure: Measure, seed: int) -> float:
        value = fmean(cell.spreads[measure.name].seeds[seed] for cell in cells)
        return 1 - value if measure.better < 0 else value

    return {seed: (turned(x, seed), turned(y, seed)) for seed in sorted(seeds)}


def mean_over_cells(cells: Sequence[Cell], measure: Measure) -> Interval | None:
    """The mean over cells, with its interval over models; None where a cell lacks the measure, or has other seeds.

    Of one cell it is the cell's own; over several whose outcomes are those of trials there is none.
    """
    if not cells or any(measure.name not in cell.spreads for cell in cells):
        return None
    if len(cells) == 1:
        return cells[0].spreads[measure.name].interval
    if any(cell.spreads[measure.name].trials is not None for cell in cells):
        return None
    seeds = [cell.spreads[measure.name].seeds for cell in cells]
    if any(found.keys() != seeds[0].keys() for found in seeds):
        return None
    return _over_models({seed: fmean(found[seed] for found in seeds) for seed in seeds[0]}, cells)


def _over_models(values: dict[int, float], cells: Sequence[Cell]) -> Interval:
    """Seeds that attack one and the same model count as one; of several cells, the one of the fewest models says which do.

    Outcomes of trials have no interval over seeds.
    """
    models = min((by_model(values, cell.done) for cell in cells), key=len)
    if any(trial.targeted for cell in cells for trial in cell.done):
        return Interval(fmean(models), None, None, len(models))
    return over_seeds(models)


def _mean_row(world: str, place: str, method: str, values: dict[int, tuple[float, float]], cells: Sequence[Cell]) -> Row:
    utility, safety = (_over_models({seed: pair[axis] for seed, pair in values.items()}, cells) for axis in (0, 1))
    row = {"world": world, "place": place, "method": method, "utility": utility.mean, "safety": safety.mean}
    row |= {"utility_low": _clipped(utility)[0], "utility_high": _clipped(utility)[1]}
    row |= {"safety_low": _clipped(safety)[0], "safety_high": _clipped(safety)[1]}
    adaptive = any(trial.adaptive for cell in cells for trial in cell.done)
    return {**row, "n": utility.n, "label": f"{method} (n={utility.n})", "adaptive": adaptive, "front": False, "named": False}


def _clipped(interval: Interval) -> tuple[float | None, float | None]:
    """The interval inside 0..1, where it is drawn."""
    if interval.low is None or interval.high is None:
        return None, None
    return max(interval.low, 0.0), min(interval.high, 1.0)


def _mark_front(rows: Sequence[Row]) -> None:
    """On the Pareto front is who is beaten by nobody in one and equalled in the other."""
    for row in rows:
        row["front"] = not any(
            other["utility"] >= row["utility"]
            and other["safety"] >= row["safety"]
            and (other["utility"], other["safety"]) != (row["utility"], row["safety"])
            for other in rows
        )


def _name(rows: Sequence[Row]) -> None:
    """Names stand beside as many points as have room for them, those of the front first."""
    span = max((row["utility"] for row in rows), default=0) - min((row["utility"] for row in rows), default=0)
    placed: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda row: (not row["front"], -row["safety"])):
        x, y = row["utility"], row["safety"]
        row["named"] = all(abs(y - other) > 0.035 or abs(x - across) > 0.5 * span for across, other in placed)
        placed += [(x, y)] if row["named"] else []
