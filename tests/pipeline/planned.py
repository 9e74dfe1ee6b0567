"""A small suite below a folder, and the runs that it asks for, without the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.index import Entry, write
from testbed.pipeline.boards import Board, boards_of
from testbed.pipeline.gather import gathered
from testbed.pipeline.rows import COLUMNS
from testbed.plan import Choice, Plan, Request, planned, store
from testbed.suite import Part, Suite

from .left import leave

PARTS: dict[str, Any] = {
    "worlds": {"small": Part(settings=("data=digits",))},
    "attacks": {"badnets": Part(settings=("attack=badnets",))},
    "methods": {"none": Part(settings=("defence=none",)), "nad": Part(settings=("defence=nad",))},
    "rates": {"attack.poison_rate": (0.01, 0.05)},
}
SUITE = Suite(name="tiny", verb="train", clean_budget="10 rows a class", seeds=(0, 1), families=(("clean_accuracy",),), **PARTS)


def made(root: Path, request: Request, *, accuracy: float = 0.9, success: float = 0.8, **facts: Any) -> Path:
    """The run of a request, and its entry in the index."""
    measures = {
        **{"clean_accuracy": accuracy, "attack_success_rate": success, "defence_effectiveness": 1 - success / 2},
        **{"undefended_attack_success_rate": 0.95, "clean_twin_attack_success_rate": 0.02, "robust_accuracy": 0.1},
    }
    if request.attack == "none":
        measures = {name: value if name == "clean_accuracy" else None for name, value in measures.items()}
    place = leave(
        root,
        **{"verb": request.verb, "seed": request.seed, "measures": measures, "made": [f"poison/{request.seed}"]},
        **{"names": {"attack": request.attack, "defence": request.method}, "seconds": {"defend": 2.0}},
        **{"settings": {"attack": {"poison_rate": request.rate}}, "peak_memory": {"defend": 5, "train": 9}, **facts},
    )
    write(root, request.key, Entry("done", folder=place.relative_to(root).as_posix()))
    return place


def plan_in(root: Path, **choice: Any) -> Plan:
    plan = planned(SUITE, Choice(**choice))
    store(plan, ["testbed", "benchmark", "suite=tiny"], root)
    return plan


def board_in(root: Path) -> Board:
    return boards_of(root, gathered(root, COLUMNS))[0]
