"""One process at a time for one folder, on one machine or on several that share it.

A kernel lock goes with the process that held it. Where a file system has none, a lease does: a file made with O_EXCL and
renewed by a heartbeat, which others take over once it was not renewed for a while. Which of them is used on a file system is
found out by trying (see `kind_of`), and written down in the folder of the locks, so that all machines use the same.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, FileLock, SoftFileLease

from testbed.files import beside, write_whole
from testbed.mount import mount_options
from testbed.words import Refused, Terminated

Kind = Literal["kernel", "lease"]

FOLDER = ".locks"
LEASE = 60.0
"""Seconds without a heartbeat after which others take a lease over; a heartbeat comes three times as often."""
LOCAL = ("local_lock=flock", "local_lock=all", "nolock", "localflock")
"""Options of a mount under which a kernel lock holds on this machine alone."""


def say(message: str) -> None:
    """One line on standard output."""
    print(message, flush=True)


@dataclass(frozen=True)
class Held:
    """A lock that is held. Called, it raises `Terminated` where it is a lease that others may have taken over."""

    lock: BaseFileLock
    place: Path

    def __call__(self) -> None:
        if not isinstance(self.lock, SoftFileLease):
            return
        token, there = self.lock.token, ""
        with suppress(OSError):
            there = self.place.read_text(encoding="utf-8", errors="replace")
        if self.lock.compromise is not None or token is None or token not in there:
            raise Terminated(f"the lease of {self.place.stem} was lost: this process stood still for too long")


@contextmanager
def lock(final: Path, say: Callable[[str], None] = say) -> Iterator[Held]:
    """Held by one process at a time for one folder; whoever waits is told for whom.

    Raises:
        Refused: this machine cannot lock here as others did before.
    """
    place = _place(final)
    held = _lock(place)
    try:
        held.acquire(timeout=0.2)
    except TimeoutError:
        say(f"waiting for {holder(final)}, which is making {final.name}")
        held.acquire()
    try:  # from here on: whoever cannot even sign must not keep it
        _sign(place)
        yield Held(held, place)
    finally:
        held.release()


@contextmanager
def attempted(final: Path, *, sign: bool = True) -> Iterator[bool]:
    """The same without waiting: whether it is held now. Who only looks does not sign."""
    place = _place(final)
    held = _lock(place)
    try:
        held.acquire(timeout=0)
    except TimeoutError:
        yield False
        return
    try:
        if sign:
            _sign(place)
        yield True
    finally:
        held.release()


def holder(final: Path) -> str:
    """Who has, or had last, the lock of a folder: 'process 17 on host'."""
    with suppress(OSError):
        process, _, host = _signature(_place(final)).read_text(encoding="utf-8").partition("@")
        return f"process {process} on {host}"
    return "another process"


def kind_of(folder: Path) -> Kind:
    """Which lock excludes others in this folder, by trying: a kernel lock that is held is refused to a second handle.

    On some network file systems it would be refused on this machine alone; the mount's own options tell.
    """
    return _tried(folder, folder.stat().st_dev)


@cache
def _tried(folder: Path, device: int) -> Kind:
    if any(option in LOCAL for option in mount_options(folder)):
        return "lease"
    place = beside(folder / "lock")
    try:
        return _excludes(place)
    finally:
        place.unlink(missing_ok=True)


def _excludes(place: Path) -> Kind:
    with place.open("xb") as first, place.open("rb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # there are none here
            return "lease"
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "kernel"
        return "lease"  # granted twice: it excludes nobody


def _place(final: Path) -> Path:
    return final.parent / FOLDER / f"{final.name}.lock"


def _signature(place: Path) -> Path:
    return place.with_suffix(".holder")


def _sign(place: Path) -> None:
    write_whole(_signature(place), f"{os.getpid()}@{socket.gethostname()}", durable=False)


def _lock(place: Path) -> BaseFileLock:
    place.parent.mkdir(parents=True, exist_ok=True)
    if _agreed(place.parent) == "kernel":
        return FileLock(place)
    options: dict[str, Any] = {"lease_duration": LEASE, "heartbeat_interval": LEASE / 3, "on_compromise": _lost}
    return SoftFileLease(place, **options)


def _agreed(folder: Path) -> Kind:
    """The kind of lock that is used in this folder: what the first process found out holds for all."""
    there = folder / "kind"
    known = there.read_text(encoding="utf-8") if there.is_file() else ""
    own = kind_of(folder)
    if not known:
        first = beside(there)
        first.write_text(own, encoding="utf-8")
        try:
            os.link(first, there)
        except FileExistsError:
            pass  # another process was faster, and what it wrote is read next
        except OSError:  # no links here
            first.replace(there)
        first.unlink(missing_ok=True)
        known = there.read_text(encoding="utf-8")
    if known == "kernel" and own == "lease":
        limit = f"{folder} is used with kernel locks by others, and this machine's mount has none that they would see"
        raise Refused(f"paths.outputs: {limit}; mount it alike, or say paths.outputs= to put results elsewhere", 4)
    return "lease" if known == "lease" else own


def _lost(compromise: Any) -> None:
    """Others may take this run now: whoever lost its lease ends as if it had been told to."""
    why = f"the lease was lost ({compromise.reason})"
    print(f"{why}; ending, so that no two processes make one folder", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
