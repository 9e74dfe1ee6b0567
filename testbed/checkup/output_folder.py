"""An output folder: whether it keeps what is written, which lock holds there, and what runs that were killed left in it."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.checkup.finding import Finding, reason, size
from testbed.files import leftovers, lives, strays, to_disk
from testbed.lock import kind_of
from testbed.mount import mount_of

LEAST_ROOM, LITTLE_ROOM = 50e6, 2e9
FEW_NAMES = 10_000
LONGEST_NAME = 200
"""Letters of a run's folder while it is made."""
SKEW = 10.0
"""Seconds between this machine's clock and that of the disk."""
ELSEWHERE = "say paths.outputs=DIR to put results elsewhere"


def output_folder(outputs: Path) -> Iterator[Finding]:
    """Tries, in a folder of its own that is removed again, all that a run relies on."""
    place = outputs.absolute()
    try:
        there = next(folder for folder in (place, *place.parents) if folder.exists() or folder.is_symlink())
        with _untouched(there), TemporaryDirectory(dir=there, prefix=".testbed-doctor-") as probe:
            told = "" if there == place else f" (it will be made in {there})"
            yield Finding("ok", "outputs", f"{outputs} can be written{told}")
            yield from _tried(Path(probe))
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        yield Finding("problem", "outputs", f"{outputs} cannot be written ({why})", ELSEWHERE)
        return
    yield _room(there)
    if there == place:
        yield _left(place)


@contextmanager
def _untouched(folder: Path) -> Iterator[None]:
    """The folder's times are afterwards what they were, where this user may set them: only its owner may."""
    before = folder.stat()
    try:
        yield
    finally:
        with suppress(OSError):  # a laboratory's shared folder is somebody else's, and can be written all the same
            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _tried(probe: Path) -> Iterator[Finding]:
    yield _file_system(probe)
    yield from (found for found in (_renames(probe), _durable(probe), _names(probe), _clock(probe)) if found is not None)


def _file_system(probe: Path) -> Finding:
    mount, lock = mount_of(probe), kind_of(probe)
    kind = "a file system of unknown kind" if mount is None else mount.kind
    if lock == "kernel":
        return Finding("ok", "locks", f"the kernel's own, on {kind}")
    said = f"{kind} has no locks that all machines see, so that lease files with a heartbeat are used"
    return Finding("ok", "locks", f"{said}: a killed run is taken over after a minute")


def _renames(probe: Path) -> Finding:
    """A file and a folder take the place of others in one step, and are whole there."""
    (probe / "old").write_text("old")
    (probe / "new").write_text("new")
    (probe / "made").mkdir()
    (probe / "made" / "result").write_text("x")
    try:
        os.replace(probe / "new", probe / "old")
        os.rename(probe / "made", probe / "final")
        whole = (probe / "old").read_text() == "new" and (probe / "final" / "result").read_text() == "x"
    except OSError as error:
        return Finding("problem", "renames", f"not possible here ({reason(error)})", ELSEWHERE)
    if not whole or (probe / "new").exists() or (probe / "made").exists():
        return Finding("problem", "renames", "what was renamed is not what was written", ELSEWHERE)
    return Finding("ok", "renames", "files and folders take their place in one step")


def _durable(probe: Path) -> Finding:
    """What was written can be brought to the disk, files and names."""
    begun = time.monotonic()
    try:
        to_disk(probe / "old")
        to_disk(probe)
    except OSError as error:
        advice = "finished runs may be lost when the machine loses power; " + ELSEWHERE
        return Finding("warning", "to disk", f"cannot be waited for here ({reason(error)})", advice)
    seconds = time.monotonic() - begun
    if seconds > 1:
        return Finding(
            "warning", "to disk", f"it took {seconds:.1f} s for a few bytes", "many short runs will wait for the disk"
        )
    return Finding("ok", "to disk", f"fsync works on files and folders ({1000 * seconds:.0f} ms)")


def _names(probe: Path) -> Finding:
    """Names that differ in their case are two, and may be as long as those of runs."""
    (probe / "case").touch()
    folds = (probe / "CASE").exists()
    try:
        (probe / ("n" * LONGEST_NAME)).touch()
    except OSError as error:
        return Finding("problem", "names", f"{LONGEST_NAME} letters are too many here ({reason(error)})", ELSEWHERE)
    if folds:
        return Finding("warning", "names", "those that differ in their case alone are one here", "name methods of yours apart")
    return Finding("ok", "names", f"case counts, and {LONGEST_NAME} letters fit")


def _clock(probe: Path) -> Finding | None:
    """The disk's clock, which other machines see too, beside this machine's."""
    (probe / "now").write_text("x")
    apart = (probe / "now").stat().st_mtime - time.time()
    if abs(apart) <= SKEW:
        return None
    advice = "set both by NTP: leases are judged by the disk's"
    return Finding(
        "warning", "clock", f"the disk's is {abs(apart):.0f} s {'before' if apart > 0 else 'behind'} this machine's", advice
    )


def _room(there: Path) -> Finding:
    state = os.statvfs(there)
    free = shutil.disk_usage(there).free
    said = f"{size(free)} left on the disk of {there}"
    if free < LEAST_ROOM:
        return Finding("problem", "room", said, f"make room, or {ELSEWHERE}")
    if state.f_files and state.f_favail < FEW_NAMES:
        return Finding(
            "warning", "room", f"{said}, but only {state.f_favail} more files (inodes)", f"make room, or {ELSEWHERE}"
        )
    if free < LITTLE_ROOM:
        return Finding("warning", "room", said, "a victim of images takes up to 45 MB")
    return Finding("ok", "room", said)


def _left(outputs: Path) -> Finding:
    """Folders and files of runs that were killed, those of processes still at work apart."""
    half = [made for parent in _parents(outputs) for places in leftovers(parent).values() for made in places.items()]
    dead = [place for place, process in half if not _at_work(process, "")]
    stray = [found for parent in (outputs, *_parents(outputs)) for found in strays(parent)]
    dead += [place for place, host, process in stray if not _at_work(process, host)]
    busy = len(half) + len(stray) - len(dead)
    working = f", {busy} being made now" if busy else ""
    if not dead:
        return Finding("ok", "leftovers", f"none of runs that were killed{working}")
    taken = sum(path.stat().st_size for place in dead for path in (place, *place.rglob("*")) if path.is_file())
    advice = "they go when the same runs are made again, or remove them: they begin with a dot"
    return Finding("warning", "leftovers", f"{len(dead)} of runs that were killed, {size(taken)}{working}", advice)


def _parents(outputs: Path) -> list[Path]:
    return sorted(place for place in outputs.iterdir() if place.is_dir() and not place.name.startswith("."))


def _at_work(process: str, host: str) -> bool:
    """A process of another machine may be at work for all that is known here."""
    return (host not in ("", socket.gethostname())) or (process.isdecimal() and lives(int(process)))
