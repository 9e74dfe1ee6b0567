"""Kill -9 at random moments: two drivers fill one grid, and one of them, a worker or a whole group is killed, over and over."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
from verdict import Found
from world import World, elsewhere, leftovers, living, members, waited

KINDS = {"worker": 0.6, "driver": 0.2, "group": 0.2}
"""How often which is killed: a process that makes a run, the command itself, or it and all that it started."""
SLOWEST = 0.2
"""Seconds from the moment that there is something to kill to the next kill, at most."""
EARLY = 0.2
"""How often a driver is killed while it starts."""


@dataclass
class Monkey:
    """Two drivers on one folder of outputs, killed and started again; what was committed is looked at before each kill."""

    world: World
    outputs: str
    temporary: tuple[Path, Path]
    randomly: random.Random
    drivers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    sessions: list[int] = field(default_factory=list)
    seen: dict[str, tuple[bytes, int, int]] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    away: int = 0
    changed: list[str] = field(default_factory=list)
    committed: dict[str, int] = field(default_factory=dict)

    def rage(self, kills: int) -> None:
        """Kill so many times, spread over the whole sweep."""
        while self.killed.total() < kills:
            self.start()
            self.look()
            if len(self.seen) / self.world.runs < self.killed.total() / kills:
                time.sleep(0.01)  # where a machine is busy, kills alone would let no run come to its end
            else:
                time.sleep(self.randomly.uniform(0, SLOWEST))
                self.look()
                self.kill(len(self.seen) < self.world.runs)

    def start(self) -> None:
        """Start each driver that is not there, half of them with TMPDIR on another file system."""
        for number in (0, 1):
            if number not in self.drivers or self.drivers[number].poll() is not None:
                far = self.randomly.random() < 0.5
                self.away += far
                place = self.world.place
                started = self.world.start(
                    self.outputs, place / f"driver{number}.log", "jobs=2", TMPDIR=str(self.temporary[far])
                )
                self.drivers[number] = started
                self.sessions.append(started.pid)

    def look(self) -> None:
        """Note what is committed now, and whether anything that was committed before is gone or another."""
        found = self._committed()
        self.changed += [name for name, mark in self.seen.items() if found.get(name) != mark]
        self.seen = found
        for name in found:
            self.committed.setdefault(name, time.monotonic_ns())

    def late(self, line: Mapping[str, Any]) -> bool:
        """Whether a line of the journal begins a run that was seen committed before."""
        return line["what"] == "begin" and line["at"] > self.committed.get(line["name"], line["at"])

    def _committed(self) -> dict[str, tuple[bytes, int, int]]:
        """By name of a finished run: what it says, which folder that is, and when it was written."""
        found = {}
        for path in (self.world.place / self.outputs / "train").glob("[!.]*/result.json"):
            with suppress(FileNotFoundError):  # one that failed may be replaced just now
                told, state, folder = path.read_bytes(), path.stat(), path.parent.stat()
                if b'"status": "done"' in told:
                    found[path.parent.name] = (told, folder.st_ino, state.st_mtime_ns)
        return found

    def kill(self, waiting: bool) -> None:
        """Kill a worker, a driver or all that one started: mostly once there is work to be lost, sometimes while it starts."""
        (kind,) = self.randomly.choices(list(KINDS), list(KINDS.values()))
        early = kind != "worker" and self.randomly.random() < EARLY
        workers = self._workers()
        while waiting and not early and not workers and self._running():
            time.sleep(0.01)
            workers = self._workers()
        if kind == "worker" and workers:
            process = self.randomly.choice([process for found in workers.values() for process in found])
            if _killed(os.kill, process):
                self.killed["worker"] += 1
            return
        chosen = self.randomly.choice(list(self.drivers if early or not workers else workers))
        kind = "driver" if kind == "worker" else kind
        _killed(os.kill if kind == "driver" else os.killpg, self.drivers[chosen].pid)
        self.killed[kind] += self.drivers[chosen].wait() == -signal.SIGKILL  # one that had ended by itself was not killed

    def _running(self) -> bool:
        return any(driver.poll() is None for driver in self.drivers.values())

    def _workers(self) -> dict[int, list[int]]:
        """The processes that make runs now, by driver; of drivers that have some."""
        found = {number: _forked(driver.pid) for number, driver in self.drivers.items() if driver.poll() is None}
        return {number: workers for number, workers in found.items() if workers}

    def end(self) -> None:
        """Leave nothing running, however this ends."""
        for session in self.sessions:
            for process in members(session):
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        for driver in self.drivers.values():
            driver.wait()


def _killed(how: Callable[[int, int], None], process: int) -> bool:
    """Kill it; False where it had ended by itself, whether or not its end was noticed: the kernel kills a zombie gladly."""
    if not living(process):
        return False
    try:
        how(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _forked(driver: int) -> list[int]:
    """What the server of forks of a driver has forked: its grandchildren, for the server is its child."""
    with suppress(psutil.NoSuchProcess):
        servers = psutil.Process(driver).children()
        return [process.pid for server in servers for process in server.children() if living(process.pid)]
    return []


def kills(place: Path, *, count: int = 200, runs: int = 200, seed: int = 0, pause: float = 0.02) -> Found:
    """What `count` kills over a sweep of `runs` runs do, beside the same sweep without any."""
    started = time.monotonic()
    far = Path(mkdtemp(prefix="chaos-", dir=elsewhere(place)))
    near = place / "temporary"
    near.mkdir()
    methods = {"well": {"pause": pause}, "again": {"pause": pause / 2, "bytes": 65536}}
    world, quiet = World(place / "broken", methods, max(1, runs // 4)), World(place / "quiet", methods, max(1, runs // 4))
    monkey = Monkey(world, "outputs", (near, far), random.Random(seed))
    try:
        monkey.rage(count)
        for driver in monkey.drivers.values():
            driver.wait()
        monkey.look()
        last = world.sweep("outputs", "jobs=2", TMPDIR=str(near))
        left = waited(monkey.sessions)
        monkey.look()
        temporary = [path.name for folder in (near, far) for path in folder.iterdir()]
    finally:
        monkey.end()
        shutil.rmtree(far)
    with_kills = time.monotonic() - started
    whole = quiet.sweep("outputs", "jobs=2")
    told, expected = world.results("outputs"), quiet.results("outputs")
    journal = world.journal()
    found = Found(
        {
            "kills": f"{monkey.killed.total()} ({', '.join(f'{n} {kind}' for kind, n in sorted(monkey.killed.items()))})",
            "drivers started": f"{len(monkey.sessions)}, {monkey.away} with TMPDIR on another file system",
            "runs": f"{world.runs}, begun {sum(line['what'] == 'begin' for line in journal)} times",
            "files left in TMPDIR": len(temporary),
            "seconds with kills": round(with_kills, 1),
            "seconds in all": round(time.monotonic() - started, 1),
        }
    )
    found.require("the last rerun ends with 0", last.returncode == 0, last.stderr[-500:])
    found.require("the uninterrupted sweep ends with 0", whole.returncode == 0, whole.stderr[-500:])
    found.require("every run is there", len(told) == len(expected) == world.runs, f"{len(told)} of {world.runs}")
    found.none("finished runs lost or changed", monkey.changed)
    found.none("results other than without kills", [name for name in expected if told.get(name) != expected[name]])
    found.none("two processes in one run, or torn", [line for line in journal if line["what"] not in ("begin", "end")])
    found.none("runs begun although they were committed", [line for line in journal if monkey.late(line)])
    found.require("the index knows all", world.entries("outputs") == {"done": world.runs}, world.entries("outputs"))
    found.none("leftovers in the outputs", leftovers(world.place / "outputs"))
    found.none("processes left", left)
    return found
