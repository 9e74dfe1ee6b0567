"""Differences from the baseline: the same seeds, poison, model and data, and p-values corrected within families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from testbed.cell import by_model, counted_rows
from testbed.leaderboard import Cell, Contrast, Row
from testbed.rules import Rules, fewest_pairs
from testbed.statistics import holm, over_seeds, sign_flips


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
            seeds = ", ".join(str(seed) for seed in sorted(refused) if refused[seed] == what)
            unpaired.append(f"{cell.label}: not compared with {rules.baseline}, as the {what} is another: seed {seeds}")
        pairs = {name: _contrast(name, cell, other, refused) for name in rules.tested}
        found.append(replace(cell, contrasts={name: pair for name, pair in pairs.items() if pair is not None}))
    corrected = _corrected(found, rules)
    return [replace(cell, contrasts=_with(cell, corrected)) for cell in found], unpaired


def _met(cell: Cell) -> dict[int, dict[str, set[str]]]:
    """By seed: which data set, which poison and which undefended victim its runs met; what rests on others comes later."""
    found: dict[int, dict[str, set[str]]] = {}
    for trial in cell.done:
        met = {"data set": trial.data, "poison": trial.poison, "undefended victim": trial.victims.get("undefended", "")}
        for what, one in met.items():
            found.setdefault(trial.seed, {}).setdefault(what, set()).add(one)
    return found


def _refused(cell: Cell, other: Cell) -> dict[int, str]:
    """The seeds that both have of which not all that they met is the same, and what first is not: they are no pairs."""
    mine, theirs = _met(cell), _met(other)
    differing = {
        seed: next((what for what in mine[seed] if mine[seed][what] != theirs[seed][what]), "")
        for seed in sorted(mine.keys() & theirs.keys())
    }
    return {seed: what for seed, what in differing.items() if what}


def _contrast(name: str, cell: Cell, other: Cell, refused: Mapping[int, str]) -> Contrast | None:
    if name not in cell.spreads or name not in other.spreads:
        return None
    mine, theirs = cell.spreads[name].seeds, other.spreads[name].seeds
    pairs = {seed: value - theirs[seed] for seed, value in mine.items() if seed in theirs and seed not in refused}
    if not pairs:
        return None
    differences = by_model(pairs, cell.done)
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
