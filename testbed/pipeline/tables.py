"""A leaderboard as tables of text: standings, what a method costs without an attack, cells, differences, populations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from testbed.leaderboard import Cell, Contrast, Leaderboard, Population, Standing
from testbed.pipeline.boards import Board
from testbed.pipeline.rows import COLUMNS, figure
from testbed.plan import CLEAN
from testbed.rules import SIGNIFICANT
from testbed.statistics import Interval
from testbed.table import Figure, Row, mean_and_interval, number

LINES = 12
"""As many reasons are told one by one; of the others, only how many there are."""


def heading_of(board: Leaderboard) -> list[str]:
    """What a reader must know of a suite before its numbers: a line each."""
    departures = "; ".join(board.departures) or "none"
    told = [
        f"suite {board.title} ({board.hash}), {board.verb}",
        f"clean budget: {board.clean_budget}",
        f"departures from the suite: {departures}",
        f"runs: {board.done} of {board.wanted} done",
        *_left_out(board),
    ]
    notes = [*board.missing, *board.unpaired]
    told += [f"  {line}" for line in notes[:LINES]]
    return told + ([f"  and {len(notes) - LINES} more"] if len(notes) > LINES else [])


def _left_out(board: Leaderboard) -> list[str]:
    """A line a reason for which nobody is ranked by some rows, with these."""
    reasons: dict[str, list[str]] = {}
    for (world, attack, rate), why in board.left_out.items():
        reasons.setdefault(why, []).append(" ".join([world, attack, *([] if rate is None else [f"{rate:g}"])]))
    return [f"left out of ranks and means: {', '.join(rows)} ({why})" for why, rows in reasons.items()]


def tables_of(board: Board, asked: Sequence[str] = ()) -> Iterator[tuple[str, list[Row]]]:
    """Titles and rows. `asked` are the measures of the cells, the usual ones of the verb if none."""
    told = board.leaderboard
    shown = [name for name in asked or COLUMNS[told.verb] if any(name in cell.spreads for cell in told.cells)]
    attacked = [cell for cell in told.cells if cell.attack != CLEAN]
    peace = [cell for cell in told.cells if cell.attack == CLEAN]
    by_world = len({standing.world for standing in told.standings}) > 1
    made = {
        "standings (worst case in brackets)": [_standing(standing, by_world=by_world) for standing in told.standings],
        "without an attack: what a method costs": [_cost(cell, told) for cell in peace if told.verb == "train"],
        "detectors of backdoored models, over all models": [_population(population) for population in told.populations],
        "cells": [_row(cell, board, shown) for cell in attacked],
        f"differences from {told.baseline} on the same seeds and poison": [
            _difference(cell) for cell in attacked if cell.contrasts
        ],
    }
    for title, rows in made.items():
        if rows:
            yield f"{told.title}: {title}", _level(rows)


def _level(rows: Sequence[Row]) -> list[Row]:
    """The same rows, each with the measures of all."""
    names = dict.fromkeys(name for row in rows for name in row.figures)
    return [replace(row, figures={name: row.figures.get(name) for name in names}) for row in rows]


def _standing(standing: Standing, *, by_world: bool) -> Row:
    labels = {"method": standing.method, **({"world": standing.world or "all"} if by_world else {})}
    figures: dict[str, Figure | None] = {
        "mean_rank": Figure(_beside(standing.mean_rank, standing.worst_rank)),
        "whole_cells": Figure(f"{standing.cells}/{standing.wanted}"),
        **{name: _mean(standing, name) for name in standing.means},
    }
    notes = [f"{standing.failed} runs ended badly"] if standing.failed else []
    notes += [f"adaptively tested by {line}" for line in standing.adaptive]
    return Row(labels, f"{standing.n} runs", figures, "; ".join(notes))


def _mean(standing: Standing, name: str) -> Figure:
    """'0.450 (0.800)', and beneath it '1 of 2 cells' where it rests on fewer cells than that of others."""
    return Figure(_beside(standing.means[name], standing.worst[name]), standing.partial.get(name, ""))


def _beside(mean: float | None, worst: float | None) -> str:
    return "-" if mean is None else f"{mean:.3f} ({worst:.3f})" if worst is not None else f"{mean:.3f}"


def _cost(cell: Cell, board: Leaderboard) -> Row:
    """Clean accuracy where nobody attacks, and its difference from the baseline's; seconds of the method's own phase."""
    labels = {"world": cell.world, "method": cell.method}
    spread, contrast = cell.spreads.get("clean_accuracy"), cell.contrasts.get("clean_accuracy")
    seconds = [trial.seconds for trial in cell.trials if trial.status == "done" and trial.seconds is not None]
    figures = {
        "clean_accuracy": None if spread is None else _spread(spread.interval, spread.seeds.values()),
        f"minus_{board.baseline}": None if contrast is None else Figure(_signed(contrast.difference)),
        "seconds": Figure(number(fmean(seconds))) if seconds else None,
    }
    return Row(labels, _n(cell), figures, _notes(cell))


def _spread(interval: Interval, seeds: Collection[float]) -> Figure:
    return Figure(mean_and_interval(interval), " ".join(number(value) for value in seeds) if len(seeds) > 1 else "")


def _row(cell: Cell, board: Board, shown: Sequence[str]) -> Row:
    labels = {"world": cell.world, "attack": cell.attack, "rate": cell.rate, "method": cell.method}
    runs = board.cells.get((cell.row, cell.method))
    figures = {name: None if runs is None else figure(runs, name) for name in shown}
    return Row(labels, _n(cell), figures, _notes(cell))


def _n(cell: Cell) -> str:
    done = sum(trial.status == "done" for trial in cell.trials)
    return str(done) if done == len(cell.trials) else f"{done}/{len(cell.trials)}"


def _notes(cell: Cell) -> str:
    """What must be known before this row is believed."""
    told = ["weak: the attack is not 10 points above its clean twin, so that there is nothing to defeat"] if cell.weak else []
    told += ["success on the clean twin is not known, nor therefore whether the attack is weak"] if cell.unknown else []
    told += ["not counted in ranks and means"] if not cell.counted and cell.attack != CLEAN else []
    told += ["the attack was made for this very method"] if any(trial.adaptive for trial in cell.trials) else []
    bad = [trial.status for trial in cell.trials if trial.status != "done"]
    told += [f"{bad.count(status)} {status}" for status in dict.fromkeys(bad)]
    return "; ".join(told)


def _difference(cell: Cell) -> Row:
    labels = {"world": cell.world, "attack": cell.attack, "rate": cell.rate, "method": cell.method}
    n = {contrast.difference.n for contrast in cell.contrasts.values()}
    figures: Mapping[str, Figure | None] = {
        name: _contrast(contrast, alone=len(n) == 1) for name, contrast in cell.contrasts.items()
    }
    floors = {pair.fewest for pair in cell.contrasts.values() if pair.fewest is not None and not pair.decidable}
    low = [f"cannot be decided below {max(floors)} pairs"] if floors else []
    return Row(labels, f"{'/'.join(map(str, sorted(n)))} pairs", figures, "; ".join([*low, *filter(None, [_notes(cell)])]))


def _contrast(contrast: Contrast, *, alone: bool) -> Figure:
    """'-0.16 ± 0.23', with a star where the corrected p is below 0.05, and the p where there is one."""
    marked = contrast.corrected is not None and contrast.corrected < SIGNIFICANT
    pairs = "" if alone else f" ({contrast.difference.n})"
    told = [] if contrast.p is None else [f"p {contrast.p:.3f}"]
    told += [] if contrast.corrected is None else [f"Holm {contrast.corrected:.3f}"]
    return Figure(f"{_signed(contrast.difference)}{'*' if marked else ''}{pairs}", ", ".join(told))


def _signed(interval: Interval) -> str:
    text = mean_and_interval(interval)
    return text if interval.mean < 0 else f"+{text}"


def _population(population: Population) -> Row:
    flagged = {"flagged_clean": population.flagged_clean, "flagged_backdoored": population.flagged_backdoored}
    figures: dict[str, Figure | None] = {
        "auroc_over_models": Figure("-" if population.auroc is None else _rate(population.auroc)),
        **{name: None if rate is None else Figure(_rate(rate)) for name, rate in flagged.items()},
    }
    n = f"{population.clean} clean, {population.backdoored} backdoored"
    return Row({"world": population.world, "method": population.method}, n, figures)


def _rate(rate: Interval) -> str:
    return f"{rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
