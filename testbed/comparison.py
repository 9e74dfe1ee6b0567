"""Trials -> a leaderboard: cells with their intervals, differences from the baseline, ranks and standings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from testbed.cell import cells_of, complete, counted_rows, spread
from testbed.contrast import contrasted
from testbed.leaderboard import Cell, Leaderboard, Row, Standing, Trial
from testbed.plan import CLEAN
from testbed.population import populations
from testbed.rules import LESS_IS_BETTER, RANKED, Rules
from testbed.statistics import ranks

BUDGET = "attack_budget_"
"""What the names of measures begin with that tell what an attacker spent."""


PENDING = ("missing", "interrupted", "stale")
"""How runs stand that are still to be made, or made again."""
NOT_ENDED_BADLY = ("done", "missing", "skipped", "stale")


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
        _left_out(cells, rules),
    )


def _reason(trial: Trial) -> str:
    why = f" ({' '.join(trial.reason.split())})" if trial.reason else ""
    return f"{trial.status}: {trial.label}{why}"


def _rows(cells: Sequence[Cell], measure: str, world: str | None) -> list[Row]:
    """The counted rows of which it is known, or can still become known, that they have the measure."""
    told = {cell.row for cell in cells if measure in cell.spreads}
    made = {cell.row for cell in cells if cell.done}
    due = {cell.row for cell in cells if any(trial.status in PENDING for trial in cell.trials)}
    return [row for row in counted_rows(cells, world) if row in told or row in due - made]


def _left_out(cells: Sequence[Cell], rules: Rules) -> dict[Row, str]:
    """The attacked rows by which nobody is ranked, with the reason; without those that are not meant to be."""
    by_row: dict[Row, list[Cell]] = {}
    for cell in cells:
        by_row.setdefault(cell.row, []).append(cell)
    ranked = _rows(cells, RANKED[rules.verb], None)
    why = {row: _why_not(row, members, rules) for row, members in by_row.items() if row not in ranked}
    return {row: reason for row, reason in why.items() if reason}


def _why_not(row: Row, members: Sequence[Cell], rules: Rules) -> str:
    """'' for the clean arm, and for an attack that is not among the suite's counted ones or that adapts to each method."""
    statuses = [trial.status for cell in members for trial in cell.trials]
    if row[1] == CLEAN or (rules.counted is not None and row[1] not in rules.counted):
        return ""
    if any(cell.unknown for cell in members):
        return "success on the clean twin is not known, nor therefore whether the attack is weak"
    if any(cell.weak for cell in members):
        return "weak: the attack is not 10 points above its clean twin"
    if not any(cell.counted for cell in members):
        return ""
    if "done" not in statuses:
        return "no run is done: " + ", ".join(f"{statuses.count(name)} {name}" for name in dict.fromkeys(statuses))
    return f"no run has {RANKED[rules.verb]}"


def _ranked(cells: Sequence[Cell], rules: Rules) -> list[Cell]:
    """Each row's ranks among the methods that have every counted row of its world."""
    measure = RANKED[rules.verb]
    have = {(cell.row, cell.method): cell for cell in cells if complete(cell, measure)}
    names = list(dict.fromkeys(cell.method for cell in cells))
    by_cell: dict[tuple[Row, str], float] = {}
    for world in dict.fromkeys(cell.world for cell in cells):
        rows = _rows(cells, measure, world)
        methods = [name for name in names if all((row, name) in have for row in rows)]
        for row in rows if methods else ():
            means = [have[row, name].spreads[measure].interval.mean for name in methods]
            by_cell |= {(row, name): rank for name, rank in zip(methods, ranks(means), strict=True)}
    return [replace(cell, rank=by_cell.get((cell.row, cell.method))) for cell in cells]


def _standings(cells: Sequence[Cell], rules: Rules, world: str | None) -> list[Standing]:
    """Best first; those without a rank last, in the order in which they were asked for."""
    rows = {name: _rows(cells, name, world) for name in (RANKED[rules.verb], *rules.tested)}
    here = [cell for cell in cells if world in (None, cell.world)]
    methods = dict.fromkeys(cell.method for cell in here)
    found = [_standing([cell for cell in here if cell.method == method], rows, rules, world) for method in methods]
    return sorted(found, key=lambda one: (one.mean_rank is None, one.mean_rank or 0.0))


def _standing(here: Sequence[Cell], rows: Mapping[str, Sequence[Row]], rules: Rules, world: str | None) -> Standing:
    counted = [cell for cell in here if cell.counted and not cell.weak]
    faint = {cell.row for cell in here if cell.weak}  # a poison made for it alone may be weak where that of others is not
    wanted = {name: [row for row in its if row not in faint] for name, its in rows.items()}
    whole = {name: sum(cell.row in its and complete(cell, name) for cell in counted) for name, its in wanted.items()}
    first = RANKED[rules.verb]
    ranked = [cell.rank for cell in counted if cell.row in wanted[first] and cell.rank is not None]
    ranked = ranked if len(ranked) == len(wanted[first]) else []
    values = {
        name: known
        for name in rules.tested
        if (known := [cell.spreads[name].interval.mean for cell in counted if name in cell.spreads])
    }
    return Standing(
        here[0].method,
        world,
        whole[first],
        len(wanted[first]),
        sum(len(cell.done) for cell in counted),
        fmean(ranked) if ranked else None,
        max(ranked) if ranked else None,
        {name: fmean(known) for name, known in values.items()},
        {name: max(known) if name in LESS_IS_BETTER else min(known) for name, known in values.items()},
        {name: f"{whole[name]} of {len(wanted[name])} cells" for name in values if whole[name] < len(wanted[name])},
        tuple(line for cell in here if (line := _adaptive(cell))),
        sum(trial.status not in NOT_ENDED_BADLY for cell in here for trial in cell.trials),
    )


def _adaptive(cell: Cell) -> str:
    """'badnets 0.05 in digits: success 0.980 undefended -> 0.400 defended (n = 3); steps 200', or '' if there is none."""
    against = [trial for trial in cell.done if trial.adaptive]
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
