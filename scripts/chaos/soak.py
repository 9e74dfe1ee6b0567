"""Many small runs in one driver: does anything grow, stay open or stay behind?"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from verdict import Found
from world import World, leftovers, waited

EVERY = 0.2
"""Seconds between looks."""
LIMIT = 0.01
"""How much memory may grow after the warm-up, as a share."""


@dataclass
class Series:
    """What one process held, look by look: bytes of its own that lie in memory, open files, threads."""

    runs: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self, process: psutil.Process, runs: int) -> None:
        """Note how it stands after so many runs."""
        memory, opened, threads = process.memory_full_info().uss, process.num_fds(), process.num_threads()
        for values, value in zip(
            (self.runs, self.memory, self.open, self.threads), (runs, memory, opened, threads), strict=True
        ):
            values.append(value)

    def part(self, values: Sequence[int], begin: float, end: float, total: int) -> float:
        """The median of a value while this part of all runs was made."""
        chosen = [value for value, runs in zip(values, self.runs, strict=True) if begin <= runs / total < end]
        return statistics.median(chosen) if chosen else float("nan")

    def growth(self, total: int) -> float:
        """Memory in the last quarter of the runs over that in the second quarter, less 1: the first is the warm-up."""
        return self.part(self.memory, 0.75, 1.0, total) / self.part(self.memory, 0.25, 0.5, total) - 1


def soak(place: Path, *, runs: int = 1000, jobs: int = 2, launcher: str = "processes") -> Found:
    """`runs` small runs in one driver: memory, open files and threads of what lives as long as it, and what is left."""
    started = time.monotonic()
    world = World(place / "world", {"well": {}, "again": {}}, max(1, runs // 4))
    temporary, shared = place / "temporary", Path("/dev/shm")
    temporary.mkdir()
    before = set(shared.iterdir()) if shared.is_dir() else set()
    log = place / "driver.log"
    driver = world.start("outputs", log, f"jobs={jobs}", f"launcher={launcher}", TMPDIR=str(temporary))
    try:
        series = _watched(driver, world)
    finally:
        driver.kill()
        driver.wait()
    left = waited([driver.pid])
    zombies = [process.pid for process in psutil.Process().children() if process.status() == psutil.STATUS_ZOMBIE]
    found = Found({"runs": f"{world.runs}, launcher={launcher}, jobs={jobs}", "seconds": round(time.monotonic() - started, 1)})
    for name, one in series.items():
        growth = one.growth(world.runs)
        megabytes = one.part(one.memory, 0.25, 0.5, world.runs) / 2**20
        opened = [one.part(one.open, *part, world.runs) for part in ((0.25, 0.5), (0.75, 1.0))]
        threads = [one.part(one.threads, *part, world.runs) for part in ((0.25, 0.5), (0.75, 1.0))]
        found.figures[f"memory of the {name}"] = f"{megabytes:.1f} MiB, then {100 * growth:+.2f} % ({len(one.memory)} looks)"
        found.figures[f"open files of the {name}"] = " then ".join(f"{value:g}" for value in opened)
        found.figures[f"threads of the {name}"] = " then ".join(f"{value:g}" for value in threads)
        found.require(f"memory of the {name} grows by at most 1 %", growth <= LIMIT, f"{100 * growth:.2f} %")
        found.require(f"no more open files in the {name}", opened[1] <= opened[0] + jobs, opened)
        found.require(f"no more threads in the {name}", threads[1] <= threads[0] + jobs, threads)
    said = log.read_text(encoding="utf-8", errors="replace")
    found.require("exit code 0 and every run done", f"\n{world.runs} done" in said, said[-300:])
    found.none("files left in TMPDIR", [path.name for path in temporary.iterdir()])
    found.none("files left in shared memory", [path for path in set(shared.iterdir()) - before] if before else [])
    found.none("leftovers in the outputs", leftovers(world.place / "outputs"))
    found.none("processes left", [*left, *zombies])
    return found


def _watched(driver: subprocess.Popen[bytes], world: World) -> dict[str, Series]:
    """The driver, and the server that its workers are forked from, until the driver ends."""
    series: dict[str, Series] = {}
    results = world.place / "outputs" / "train"
    while driver.poll() is None:
        time.sleep(EVERY)
        runs = len(list(results.glob("[!.]*"))) if results.is_dir() else 0
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(driver.pid)
            series.setdefault("driver", Series()).look(process, runs)
            for child in process.children():
                with suppress(psutil.NoSuchProcess):
                    if "forkserver" in " ".join(child.cmdline()):
                        series.setdefault("server of forks", Series()).look(child, runs)
    return series
