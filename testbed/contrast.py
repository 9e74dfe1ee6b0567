"""Differences from the baseline: the same seeds, targets, poison, model and data, and p-values corrected within families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from testbed.cell import by_model, by_repetition, by_seed, counted_rows, judged_over_trials
from testbed.leaderboard import Cell, Contrast, Repetition, Row
from testbed.rules import Rules, fewest_pairs
from testbed.statistics import Interval, holm, over_seeds, sign_flips


def contrasted(cells: Sequence[Cell], rules: Rules) -> tuple[list[Cell], list[str]]:
    """The cells with their differences from the baseline, and the names of those of which not every seed could be paired."""
    base = {cell.row: cell for cell in cells if cell.method == rules.baseline}
    found, unpaired = [], []
    for cell in cells:
        other = base.get(cell.row)
        if other is None or cell is other:
            found.append(cell)
            continue
        refused = _refused(cell, other)
        for what in dict.fromkeys(refused.values()):
            those = ", ".join(_named(cell, one) for one in sorted(refused) if refused[one] == what)
            unpaired.append(f"{cell.label}: not compared with {rules.baseline}, as the {what} is another: seed {those}")
        pairs = {name: _contrast(name, cell, other, refused) for name in rules.tested}
        found.append(replace(cell, contrasts={name: pair for name, pair in pairs.items() if pair is not None}))
    corrected = _corrected(found, rules)
    return [replace(cell, contrasts=_with(cell, corrected)) for cell in found], unpaired


def _named(cell: Cell, repetition: Repetition) -> str:
    """'1', or of a targeted attack '1 (trial 4)'."""
    seed, trial = repetition
    return f"{seed} (trial {trial})" if any(one.targeted for one in cell.done) else str(seed)


def _met(cell: Cell) -> dict[Repetition, dict[str, set[str]]]:
    """By run: which data set, which poison and which undefended victim it met; what rests on others comes later."""
    found: dict[Repetition, dict[str, set[str]]] = {}
    for trial in cell.done:
        met = {"data set": trial.data, "poison": trial.poison, "undefended victim": trial.victims.get("undefended", "")}
        for what, one in met.items():
            found.setdefault(trial.repetition, {}).setdefault(what, set()).add(one)
    return found


def _refused(cell: Cell, other: Cell) -> dict[Repetition, str]:
    """The seeds (and trials) that both have of which not all that they met is the same, and what first is not: no pairs."""
    mine, theirs = _met(cell), _met(other)
    differing = {
        one: next((what for what in mine[one] if mine[one][what] != theirs[one][what]), "")
        for one in sorted(mine.keys() & theirs.keys())
    }
    return {one: what for one, what in differing.items() if what}


def _contrast(name: str, cell: Cell, other: Cell, refused: Mapping[Repetition, str]) -> Contrast | None:
    mine, theirs = by_repetition(name, cell.done), by_repetition(name, other.done)
    pairs = {one: value - theirs[one] for one, value in mine.items() if one in theirs and one not in refused}
    if not pairs:
        return None
    if judged_over_trials(name, cell.done):
        outcomes = list(pairs.values())
        return Contrast(Interval(fmean(outcomes), None, None, len(outcomes)), sign_flips(outcomes), None)
    differences = by_model(by_seed(pairs), cell.done)
    return Contrast(over_seeds(differences), sign_flips(differences), None)


Tests = dict[tuple[Row, str, str], tuple[float | None, int | None]]


def _corrected(cells: Sequence[Cell], rules: Rules) -> Tests:
    """By row, method and measure: p after Holm, and the fewest pairs that can decide; a family is one method's, so that adding
    another changes no verdict.
    """
    found: Tests = {}
    rows = counted_rows(cells)
    by_place = {(cell.row, cell.method): cell for cell in cells}
    for method in dict.fromkeys(cell.method for cell in cells if cell.method != rules.baseline):
        there = [by_place[row, method] for row in rows if (row, method) in by_place]
        mine = [cell for cell in there if cell.counted and not cell.weak]
        for family in rules.families:
            tests = [(cell, name) for cell in mine for name in family]
            p_values = [cell.contrasts[name].p if name in cell.contrasts else None for cell, name in tests]
            for (cell, name), p in zip(tests, holm(p_values), strict=True):
                found[cell.row, method, name] = p, fewest_pairs(len(tests))
    return found


def _with(cell: Cell, corrected: Tests) -> dict[str, Contrast]:
    found = {}
    for name, pair in cell.contrasts.items():
        p, fewest = corrected.get((cell.row, cell.method, name), (None, None))
        found[name] = pair._replace(corrected=p, fewest=fewest)
    return found
