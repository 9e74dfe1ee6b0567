"""A small leaderboard of two methods under one attack, made by the comparison itself, and a suite that asks for two runs."""

from __future__ import annotations

from pathlib import Path

from testbed.comparison import compared
from testbed.index import Entry, write
from testbed.leaderboard import Leaderboard, Trial
from testbed.plan import Choice, planned, store
from testbed.rules import Rules
from testbed.suite import Suite

SUCCESS = {"none": 0.9, "mine": 0.25}
GROUP = "tiny-0123456789ab"


def leaderboard(seeds: int = 3, lost: str = "") -> Leaderboard:
    """`seeds` runs of each cell; one of 'mine' failed for the reason `lost` if there is one."""
    trials = []
    for method, success in SUCCESS.items():
        for seed in range(seeds):
            failed = lost and method == "mine" and seed == seeds - 1
            measures = {
                "attack_success_rate": success + 0.01 * seed,
                "clean_twin_attack_success_rate": 0.05,
                "undefended_attack_success_rate": 0.9 + 0.01 * seed,
                "defence_effectiveness": 0.5 if method == "none" else 0.8,
            }
            told = {"status": "failed", "reason": lost} if failed else {"status": "done", "measures": measures}
            trials.append(Trial("digits", "badnets", 0.05, method, seed, poison=str(seed), **told))
    return compared(trials, Rules("tiny", "train", "none", hash=GROUP[-12:], clean_budget="200 clean rows"))


def asked_by(name: str, outputs: Path, folder: Path) -> str:
    """Plan a suite of this name that asks for badnets, and book the run in this folder as what it asked for: its group."""
    parts = {"worlds": {"tiny digits": ["data=digits"]}, "attacks": {"patch": ["attack=badnets"]}, "methods": {"none": []}}
    suite = Suite(
        name=name, verb="train", clean_budget="200 rows", seeds=(3,), settings=(f"trainer.threads={len(name)}",), **parts
    )
    plan = planned(suite, Choice())
    store(plan, ("testbed", "benchmark"), outputs)
    (request,) = [request for request in plan.requests if request.attack == "patch"]
    write(outputs, request.key, Entry("done", folder=folder.relative_to(outputs).as_posix()))
    return f"{suite.name}-{suite.hash}"
