"""Differences from the baseline: the same seeds, the same poison, and p-values corrected within families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from testbed.cell import by_model, counted_rows
from testbed.leaderboard import Cell, Contrast, Row
from testbed.rules import Rules
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
        if refused:
            seeds = ", ".join(str(seed) for seed in sorted(refused))
            unpaired.append(f"{cell.label}: not compared with {rules.baseline}, as the poison is another: seed {seeds}")
        pairs = {name: _contrast(name, cell, other, refused) for name in rules.tested}
        found.append(replace(cell, contrasts={name: pair for name, pair in pairs.items() if pair is not None}))
    corrected = _corrected(found, rules)
    return [replace(cell, contrasts=_with(cell, corrected)) for cell in found], unpaired


def _poisons(cell: Cell) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for trial in cell.trials:
        if trial.status == "done":
            found.setdefault(trial.seed, set()).add(trial.poison)
    return found


def _refused(cell: Cell, other: Cell) -> set[int]:
    """The seeds that both have, of which the poison is not the same: they are no pairs."""
    mine, theirs = _poisons(cell), _poisons(other)
    return {seed for seed in mine.keys() & theirs.keys() if mine[seed] != theirs[seed]}


def _contrast(name: str, cell: Cell, other: Cell, refused: set[int]) -> Contrast | None:
    if name not in cell.spreads or name not in other.spreads:
        return None
    mine, theirs = cell.spreads[name].seeds, other.spreads[name].seeds
    pairs = {seed: value - theirs[seed] for seed, value in mine.items() if seed in theirs and seed not in refused}
    if not pairs:
        return None
    differences = by_model(pairs, [trial for trial in cell.trials if trial.status == "done"])
    return Contrast(over_seeds(differences), sign_flips(differences), None)


Tests = dict[tuple[Row, str, str], float | None]


def _corrected(cells: Sequence[Cell], rules: Rules) -> Tests:
    """P-values after Holm, by row, method and measure; a family is one method's, so that adding another changes no verdict."""
    found: Tests = {}
    rows = counted_rows(cells)
    by_place = {(cell.row, cell.method): cell for cell in cells}
    for method in dict.fromkeys(cell.method for cell in cells if cell.method != rules.baseline):
        mine = [by_place[row, method] for row in rows if (row, method) in by_place]
        for family in rules.families:
            tests = [(cell, name) for cell in mine for name in family]
            p_values = [cell.contrasts[name].p if name in cell.contrasts else None for cell, name in tests]
            for (cell, name), p in zip(tests, holm(p_values), strict=True):
                found[cell.row, method, name] = p
    return found


def _with(cell: Cell, corrected: Tests) -> dict[str, Contrast]:
    return {
        name: pair._replace(corrected=corrected.get((cell.row, cell.method, name))) for name, pair in cell.contrasts.items()
    }
