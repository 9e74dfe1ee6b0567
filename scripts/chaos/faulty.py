"""A sweep with a few runs that end badly, each in a way of its own: the others must not notice."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path

from verdict import Found
from world import World, leftovers

FAULTS = {
    "raise": "failed",
    "exit_0": "failed",
    "exit_3": "failed",
    "vanish": "killed",
    "killed": "killed",
    "segfault": "killed",
    "memory": "failed",
    "hang": "timeout",
    "swallow": "timeout",
}
"""Ways to end badly, and the status that each must get; `swallow` hangs and catches what would end it."""


def faulty(place: Path, *, runs: int = 200, timeout: int = 30, jobs: int = 2, faults: str = ",".join(FAULTS)) -> Found:
    """A sweep of `runs` runs, some of which raise, call sys.exit or os._exit, are killed, crash, hang or have no memory."""
    started = time.monotonic()
    chosen = faults.split(",")
    ends = {f"s{seed}": how for seed, how in enumerate(chosen)}
    world = World(place, {"well": {}, "mixed": {"faults": ends}}, max(len(chosen), runs // 4))
    first = world.sweep("outputs", f"timeout={timeout}", f"jobs={jobs}")
    said = {how: _said(first.stderr, seed) for seed, how in enumerate(chosen)}
    entries, results = world.entries("outputs"), world.results("outputs")
    expected = {"done": world.runs - len(chosen)}
    for how in chosen:
        expected[FAULTS[how]] = expected.get(FAULTS[how], 0) + 1
    again = world.sweep("outputs", f"timeout={timeout}", f"jobs={jobs}")
    found = Found(
        {
            "runs": f"{world.runs}, {len(chosen)} of them faulty ({', '.join(chosen)})",
            "ends": ", ".join(f"{count} {status}" for status, count in entries.items()),
            "seconds": round(time.monotonic() - started, 1),
        }
    )
    found.require("exit code 1", first.returncode == 1, f"exit code {first.returncode}: {first.stderr[-500:]}")
    found.require("each ends as it must", entries == dict(sorted(expected.items())), entries)
    found.none("good runs that are missing", [name for name in _good(world, ends) if not _done(results, name)])
    found.none(
        "faulty runs that are not listed with a reason", [how for how, (line, _) in said.items() if not _told(line, "reason")]
    )
    found.none("logs that are not there", [how for how, (line, _) in said.items() if not Path(_told(line, "log")).is_file()])
    found.none("faulty runs without the command that makes them alone", [how for how, (_, alone) in said.items() if not alone])
    found.none("lines of a trace", [line for line in first.stderr.splitlines() if line.startswith("Traceback")])
    done = f"{world.runs - len(chosen)} done already"
    found.require("a rerun tries the faulty ones again, and no others", done in again.stdout, again.stdout.splitlines()[:1])
    found.none("leftovers in the outputs", leftovers(place / "outputs"))
    return found


def _said(text: str, seed: int) -> tuple[str, str]:
    """What is said of the faulty run with this seed, and the command that makes it alone."""
    lines = [*text.splitlines(), ""]
    for line, after in pairwise(lines):
        if f"digits badnets mixed s{seed}:" in line:
            return line, after if "alone: testbed train" in after and f"seed={seed}" in after else ""
    return "", ""


def _told(line: str, part: str) -> str:
    """The reason or the log in such a line."""
    found = re.fullmatch(r"  \w+: digits badnets mixed s\d+: (?P<reason>.+) \(log: (?P<log>.+)\)", line)
    return found[part] if found else ""


def _good(world: World, ends: Mapping[str, str]) -> list[str]:
    """The beginnings of the names of the folders of runs that end well."""
    runs = product(("none", "badnets"), world.methods, range(world.seeds))
    return [
        f"{attack}-{method}-digits-s{seed}"
        for attack, method, seed in runs
        if attack == "none" or method != "mixed" or f"s{seed}" not in ends
    ]


def _done(results: dict[str, bytes], name: str) -> bool:
    return any(found.rpartition("-")[0] == name and b'"status": "done"' in told for found, told in results.items())
