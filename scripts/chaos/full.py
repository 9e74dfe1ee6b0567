"""A disk that is really full: a sweep into a file system of a few megabytes, which later has room again."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from verdict import Found
from world import World, leftovers


class Tmpfs:
    """A file system in memory, of so many megabytes at first."""

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place, self.megabytes = place, megabytes
        self.kind = f"a tmpfs, {megabytes} MB"

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Mounted inside, and gone afterwards."""
        self.place.mkdir()
        _said("mount", "-t", "tmpfs", "-o", f"size={self.megabytes}m", "tmpfs", str(self.place))
        try:
            yield
        finally:
            _said("umount", "-l", str(self.place))

    def grow(self) -> None:
        """Make room: sixteen times as much."""
        _said("mount", "-o", f"remount,size={16 * self.megabytes}m", str(self.place))


class Limited:
    """Where nothing may be mounted: no file may grow beyond a limit, which the kernel answers as it does a full disk."""

    def __init__(self, place: Path, limit: int) -> None:
        self.place, self.limit = place, limit
        self.kind = f"files of at most {limit} bytes (nothing can be mounted here)"

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """The limit holds for this process and what it starts, inside."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.place.mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, before[1]))
        self.before = before
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def grow(self) -> None:
        """Lift the limit."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def full(place: Path, *, runs: int = 60, megabytes: int = 3, mount: str = "auto", limit: int = 40_000) -> Found:
    """A sweep into a file system of `megabytes`: it fills up, has room again, and the same command completes the sweep.

    `limit` is how many bytes a file may have at most, where no file system can be mounted.
    """
    began = time.monotonic()
    methods = {"well": {"bytes": 16_384}, "again": {"bytes": 65_536}}
    world, sound = (World(place / name, methods, max(1, runs // 4)) for name in ("full", "sound"))
    mountable = mount == "tmpfs" or (mount == "auto" and _can_mount(place))
    disk = Tmpfs(place / "disk", megabytes) if mountable else Limited(place / "disk", limit)
    outputs = str(disk.place / "outputs")
    expected = sound.sweep("outputs", "jobs=2")
    with disk.mounted():
        first = world.sweep(outputs, "jobs=2")
        finished = _done(world, outputs)
        second = world.sweep(outputs, "jobs=2")
        kept = _done(world, outputs)
        disk.grow()
        last = world.sweep(outputs, "jobs=2")
        told, left = world.results(outputs), leftovers(Path(outputs))
        entries = world.entries(outputs)
    found = Found(
        {
            "disk": disk.kind,
            "runs": f"{world.runs}, {len(finished)} done when the disk was full",
            "said": _told(first.stderr, outputs),
            "seconds": round(time.monotonic() - began, 1),
        }
    )
    found.require("the disk was full in the middle", in_the_middle(len(finished), world.runs), len(finished))
    found.require("exit code 4", first.returncode == second.returncode == 4, f"{first.returncode}, {second.returncode}")
    found.require("a line names the place and says why", bool(_told(first.stderr, outputs)), first.stderr[-300:])
    found.none("lines of a trace", [line for line in (first.stderr + second.stderr).splitlines() if "Traceback" in line])
    found.none("finished runs lost or changed", [name for name in finished if kept.get(name) != finished[name]])
    found.require(
        "with room again, the same command ends with 0", last.returncode == 0, f"{last.returncode} {last.stderr[-300:]}"
    )
    same = {name for name in sound.results("outputs") if told.get(name) == sound.results("outputs")[name]}
    found.require("every result is that of a sound disk", len(same) == world.runs, f"{len(same)} of {world.runs}")
    found.require("the sound disk's sweep ends with 0", expected.returncode == 0, expected.stderr[-300:])
    found.require("the index knows all", entries == {"done": world.runs}, entries)
    found.none("leftovers in the outputs", left)
    return found


def in_the_middle(finished: int, runs: int) -> bool:
    """Whether a disk was full neither before the first run was finished nor after the last."""
    return 0 < finished < runs


def _done(world: World, outputs: str) -> dict[str, bytes]:
    return {name: told for name, told in world.results(outputs).items() if b'"status": "done"' in told}


def _told(said: str, outputs: str) -> str:
    """The line that says why and where, '' if there is none."""
    why = ("No space left on device", "File too large")
    return next((line.strip() for line in said.splitlines() if outputs in line and any(words in line for words in why)), "")


def _can_mount(place: Path) -> bool:
    """Whether a file system may be mounted, by trying."""
    trial = place / "trial"
    trial.mkdir()
    try:
        _said("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(trial))
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    _said("umount", "-l", str(trial))
    with suppress(OSError):
        shutil.rmtree(trial)
    return True


def _said(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
