"""Where a cell stands in the grid, in words."""

from __future__ import annotations

from testbed.leaderboard import Cell, Leaderboard, Row
from testbed.plan import CLEAN


def rate(cell: Cell) -> str:
    """The rate as text, '' where the attack keeps its own."""
    return "" if cell.rate is None else f"{cell.rate:g}"


def place(row: Row) -> tuple[str, ...]:
    """World, attack and rate as words."""
    return (*row[:2], *([] if row[2] is None else [f"{row[2]:g}"]))


def against(cell: Cell) -> str:
    """The attack, with its rate where there are several: 'badnets 0.05'."""
    return f"{cell.attack} {rate(cell)}".strip()


def marks(cell: Cell, *, planned: bool) -> dict[str, str]:
    """What must be known before this cell is believed: a word each, with its meaning. `planned`: by a suite."""
    found = {}
    if cell.weak:
        found["weak"] = "the attack is less than 10 points above its clean twin: there is nothing to defeat"
    if cell.unknown:
        found["unknown"] = "success undefended or on the clean twin is not known, nor therefore whether the attack is weak"
    if any(trial.adaptive for trial in cell.trials):
        found["adaptive"] = "the attack was made for this very method"
    if not cell.counted and cell.attack != CLEAN:
        found["not ranked"] = "does not enter ranks"
    if planned and any(not trial.declared for trial in cell.trials):
        found["added"] = "the suite itself does not ask for it"
    for status in dict.fromkeys(trial.status for trial in cell.trials if trial.status != "done"):
        number = sum(trial.status == status for trial in cell.trials)
        found[f"{number} {status}"] = next(
            (trial.reason for trial in cell.trials if trial.status == status and trial.reason), "no reason was recorded"
        )
    return found


def added(board: Leaderboard) -> list[str]:
    """Methods that the suite itself does not ask for: those that a reader most likely came for."""
    if not board.hash:
        return []
    declared = {cell.method for cell in board.cells if any(trial.declared for trial in cell.trials)}
    return list(dict.fromkeys(cell.method for cell in board.cells if cell.method not in declared))


def worlds(board: Leaderboard) -> list[str]:
    """The worlds of a board, in its order."""
    return list(dict.fromkeys(cell.world for cell in board.cells))
