"""Trials -> a leaderboard: cells with their intervals, differences from the baseline, ranks and standings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from testbed.cell import cells_of, complete, counted_rows, spread
from testbed.contrast import contrasted
from testbed.leaderboard import Cell, Leaderboard, Row, Standing, Trial
from testbed.population import populations
from testbed.rules import LESS_IS_BETTER, RANKED, Rules
from testbed.statistics import ranks

BUDGET = "attack_budget_"
"""What the names of measures begin with that tell what an attacker spent."""


def compared(trials: Sequence[Trial], rules: Rules) -> Leaderboard:
    """The whole comparison of these trials."""
    cells, unpaired = contrasted(_ranked(cells_of(trials, rules), rules), rules)
    missing = [_reason(trial) for trial in trials if trial.status != "done"]
    worlds = list(dict.fromkeys(cell.world for cell in cells))
    places = [None, *worlds] if len(worlds) > 1 else [None]
    return Leaderboard(
        rules.title,
        rules.verb,
        rules.hash,
        rules.departures,
        rules.clean_budget,
        tuple(cells),
        tuple(standing for world in places for standing in _standings(cells, rules, world)),
        missing,
        rules.baseline,
        tuple(populations(cells)) if rules.verb == "detect" else (),
        tuple(unpaired),
    )


def _reason(trial: Trial) -> str:
    why = f" ({' '.join(trial.reason.split())})" if trial.reason else ""
    return f"{trial.status}: {trial.label}{why}"


def _rows(cells: Sequence[Cell], rules: Rules, world: str | None) -> list[Row]:
    """The counted rows of which it is known, or not known yet, that methods can be ranked by them."""
    measure = RANKED[rules.verb]
    told = {cell.row for cell in cells if measure in cell.spreads}
    made = {cell.row for cell in cells if any(trial.status == "done" for trial in cell.trials)}
    return [row for row in counted_rows(cells, world) if row in told or row not in made]


def _ranked(cells: Sequence[Cell], rules: Rules) -> list[Cell]:
    """Each row's ranks among the methods that have every counted row of its world."""
    measure = RANKED[rules.verb]
    have = {(cell.row, cell.method): cell for cell in cells if complete(cell, measure)}
    names = list(dict.fromkeys(cell.method for cell in cells))
    by_cell: dict[tuple[Row, str], float] = {}
    for world in dict.fromkeys(cell.world for cell in cells):
        rows = _rows(cells, rules, world)
        methods = [name for name in names if all((row, name) in have for row in rows)]
        for row in rows if methods else ():
            means = [have[row, name].spreads[measure].interval.mean for name in methods]
            by_cell |= {(row, name): rank for name, rank in zip(methods, ranks(means), strict=True)}
    return [replace(cell, rank=by_cell.get((cell.row, cell.method))) for cell in cells]


def _standings(cells: Sequence[Cell], rules: Rules, world: str | None) -> list[Standing]:
    """Best first; those without a rank last, in the order in which they were asked for."""
    rows = _rows(cells, rules, world)
    here = [cell for cell in cells if world in (None, cell.world)]
    methods = dict.fromkeys(cell.method for cell in here)
    found = [_standing([cell for cell in here if cell.method == method], rows, rules, world) for method in methods]
    return sorted(found, key=lambda one: (one.mean_rank is None, one.mean_rank or 0.0))


def _standing(here: Sequence[Cell], rows: Sequence[Row], rules: Rules, world: str | None) -> Standing:
    counted = [cell for cell in here if cell.row in counted_rows(here)]
    whole = [cell for cell in counted if cell.row in rows and complete(cell, RANKED[rules.verb])]
    ranked = [cell.rank for cell in whole if cell.rank is not None] if len(whole) == len(rows) else []
    values = {
        name: known
        for name in rules.tested
        if (known := [cell.spreads[name].interval.mean for cell in counted if name in cell.spreads])
    }
    return Standing(
        here[0].method,
        world,
        len(whole),
        len(rows),
        sum(trial.status == "done" for cell in counted for trial in cell.trials),
        fmean(ranked) if ranked else None,
        max(ranked) if ranked else None,
        {name: fmean(known) for name, known in values.items()},
        {name: max(known) if name in LESS_IS_BETTER else min(known) for name, known in values.items()},
        tuple(line for cell in here if (line := _adaptive(cell))),
        sum(trial.status not in ("done", "missing", "skipped") for cell in here for trial in cell.trials),
    )


def _adaptive(cell: Cell) -> str:
    """'badnets 0.05 in digits: success 0.980 undefended -> 0.400 defended (n = 3); steps 200', or '' if there is none."""
    against = [trial for trial in cell.trials if trial.adaptive and trial.status == "done"]
    before, after = (spread(name, against) for name in ("undefended_attack_success_rate", "attack_success_rate"))
    if before is None or after is None:
        return ""
    told = f"success {before.interval.mean:.3f} undefended -> {after.interval.mean:.3f} defended (n = {after.interval.n})"
    return f"{cell.attack}{'' if cell.rate is None else f' {cell.rate:g}'} in {cell.world}: {told}{_budget(against)}"


def _budget(trials: Sequence[Trial]) -> str:
    """'; rounds 3, steps 200': what the attacker spent, the most of any seed."""
    spent: dict[str, float] = {}
    for trial in trials:
        for name, value in trial.measures.items():
            if name.startswith(BUDGET) and isinstance(value, int | float):
                spent[name] = max(float(value), spent.get(name, 0.0))
    told = [f"{name.removeprefix(BUDGET).replace('_', ' ')} {value:g}" for name, value in spent.items()]
    return f"; {', '.join(told)}" if told else ""
