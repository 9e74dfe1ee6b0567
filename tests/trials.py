"""Trials of which everything is known, for tests of comparisons."""

from __future__ import annotations

from typing import Any

from testbed.leaderboard import Cell, Leaderboard, Standing, Trial
from testbed.rules import Rules

RULES = Rules("made up", "train", "none", families=(("attack_success_rate",), ("clean_accuracy",)))


def trial(method: str, seed: int = 0, success: float | None = None, **changes: Any) -> Trial:
    """A run of badnets, undefended success 0.9 and 0 on the clean twin; `success` and effectiveness go together."""
    measures = {
        "attack_success_rate": success,
        "defence_effectiveness": None if success is None else (1.9 - success) / 2,
        "clean_accuracy": 0.9,
        "undefended_attack_success_rate": 0.9,
        "clean_twin_attack_success_rate": 0.0,
        **changes.pop("measures", {}),
    }
    place = {"world": "digits", "attack": "badnets", "rate": 0.1, "status": "done", "poison": f"poison/{seed}"}
    return Trial(**{**place, "method": method, "seed": seed, "measures": measures, **changes})


def cell_of(board: Leaderboard, method: str, attack: str = "badnets", world: str = "digits") -> Cell:
    return next(cell for cell in board.cells if (cell.world, cell.attack, cell.method) == (world, attack, method))


def standing_of(board: Leaderboard, method: str, world: str | None = None) -> Standing:
    return next(one for one in board.standings if (one.method, one.world) == (method, world))


def grid(seeds: int, methods: dict[str, float], attacks: tuple[str, ...] = ("badnets", "blended")) -> list[Trial]:
    """Every method lowers success by so much on every seed, a hundredth more on each further one."""
    return [
        trial(method, seed, 0.9 - less - (seed / 100 if less else 0), attack=attack, poison=f"poison/{attack}{seed}")
        for attack in attacks
        for method, less in methods.items()
        for seed in range(seeds)
    ]
