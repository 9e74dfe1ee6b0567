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
from world import World, leftovers, living, waited

EVERY = 0.2
"""Seconds between looks."""
LIMIT = 0.01
"""How much memory may grow after the warm-up, as a share."""
REAPED = 2.0
"""Seconds that a process which has ended may wait for whoever started it to notice."""
SERVER = "server of forks"


@dataclass
class Series:
    """What one process held, look by look: bytes that it made and that lie in memory or swap, open files, threads.

    Pages that it shares with what it forked count as well: whether a fork lives at the moment must not matter.
    """

    runs: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self, process: psutil.Process, runs: int) -> None:
        """Note how it stands after so many runs."""
        memory, opened, threads = _own(process.pid), process.num_fds(), process.num_threads()
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


@dataclass
class Watch:
    """What is seen of a driver while it lives: its series and its fork server's, and what ended below it and stayed."""

    series: dict[str, Series]
    ended: dict[psutil.Process, tuple[float, float]] = field(default_factory=dict)

    def look(self, driver: int, runs: int) -> None:
        """Note how the driver and what it started stand after so many runs."""
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            process = psutil.Process(driver)
            below, now = process.children(recursive=True), time.monotonic()
            for child in below:
                if psutil.pid_exists(child.pid) and not living(child.pid):
                    self.ended[child] = (self.ended.get(child, (now, now))[0], now)
            self.series["driver"].look(process, runs)
            for child in process.children():
                with suppress(psutil.NoSuchProcess, FileNotFoundError):
                    if SERVER in self.series and "forkserver" in " ".join(child.cmdline()):
                        self.series[SERVER].look(child, runs)

    @property
    def zombies(self) -> list[int]:
        """What had ended and was not reaped for longer than it may take."""
        return [process.pid for process, (first, last) in self.ended.items() if last - first > REAPED]


def soak(place: Path, *, runs: int = 1000, jobs: int = 2, launcher: str = "processes", pause: float = 0.0) -> Found:
    """`runs` small runs in one driver: memory, open files and threads of what lives as long as it, and what is left.

    `pause` is the seconds that a run sleeps, so that there is time to look where there are few.
    """
    started = time.monotonic()
    world = World(place / "world", {"well": {"pause": pause}, "again": {"pause": pause}}, max(1, runs // 4))
    temporary, shared = place / "temporary", Path("/dev/shm")
    temporary.mkdir()
    before = set(shared.iterdir()) if shared.is_dir() else set()
    log = place / "driver.log"
    driver = world.start("outputs", log, f"jobs={jobs}", f"launcher={launcher}", TMPDIR=str(temporary))
    try:
        watch = _watched(driver, world, launcher)
    finally:
        driver.kill()
        driver.wait()
    left = waited([driver.pid])
    found = Found({"runs": f"{world.runs}, launcher={launcher}, jobs={jobs}", "seconds": round(time.monotonic() - started, 1)})
    judge(found, watch, world.runs, jobs)
    said = log.read_text(encoding="utf-8", errors="replace")
    found.require("exit code 0 and every run done", f"\n{world.runs} done" in said, said[-300:])
    found.none("files left in TMPDIR", [path.name for path in temporary.iterdir()])
    found.none("files left in shared memory", [path for path in set(shared.iterdir()) - before] if before else [])
    found.none("leftovers in the outputs", leftovers(world.place / "outputs"))
    found.none("processes left", left)
    return found


def judge(found: Found, watch: Watch, runs: int, jobs: int) -> None:
    """Note what each process held in the second and in the last quarter of so many runs, and that nothing grew or stayed."""
    for name, one in watch.series.items():
        found.require(f"the {name} was seen", bool(one.memory), "not once")
        growth = one.growth(runs)
        megabytes = one.part(one.memory, 0.25, 0.5, runs) / 2**20
        opened = [one.part(one.open, *part, runs) for part in ((0.25, 0.5), (0.75, 1.0))]
        threads = [one.part(one.threads, *part, runs) for part in ((0.25, 0.5), (0.75, 1.0))]
        found.figures[f"memory of the {name}"] = f"{megabytes:.1f} MiB, then {100 * growth:+.2f} % ({len(one.memory)} looks)"
        found.figures[f"open files of the {name}"] = " then ".join(f"{value:g}" for value in opened)
        found.figures[f"threads of the {name}"] = " then ".join(f"{value:g}" for value in threads)
        found.require(f"memory of the {name} grows by at most 1 %", growth <= LIMIT, f"{100 * growth:.2f} %")
        found.require(f"no more open files in the {name}", opened[1] <= opened[0] + jobs, opened)
        found.require(f"no more threads in the {name}", threads[1] <= threads[0] + jobs, threads)
    found.none(f"processes that had ended and were not reaped for {REAPED:g} s", watch.zombies)


def _own(process: int) -> int:
    """Bytes that a process made itself (anonymous pages, no files), in memory or swap, shared with its forks or not.

    Raises:
        psutil.NoSuchProcess: it has ended, and so holds nothing.
    """
    told = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines())
    if "RssAnon" not in told:
        raise psutil.NoSuchProcess(process)
    return sum(int(told.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))


def _watched(driver: subprocess.Popen[bytes], world: World, launcher: str) -> Watch:
    """The driver, and the server that its workers are forked from where it has one, until the driver ends."""
    watch = Watch({name: Series() for name in (("driver",) if launcher == "basic" else ("driver", SERVER))})
    results = world.place / "outputs" / "train"
    while driver.poll() is None:
        time.sleep(EVERY)
        watch.look(driver.pid, len(list(results.glob("[!.]*"))) if results.is_dir() else 0)
    return watch
