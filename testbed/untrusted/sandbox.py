"""What the reading process gives up before it sees a byte of the file, and the words that say so."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from testbed.untrusted import landlock, limits, seccomp

NEW_USERS, NEW_NETWORK, NEW_PROCESSES, NEW_IPC = 0x10000000, 0x40000000, 0x20000000, 0x08000000
DIE_WITH_PARENT, DUMPABLE, NO_NEW_PRIVILEGES = 1, 4, 38
CAPABILITIES_3 = 0x20080522
OPEN_FILES = 64


class Alone(NamedTuple):
    """Whether the process has a network and a process tree of its own, or why not."""

    yes: bool
    why: str = ""


def alone() -> Alone:
    """Move the next child into a network without devices and a process tree that dies with it, where this is permitted."""
    if not sys.platform.startswith("linux"):
        return Alone(False, f"{sys.platform} has no network namespaces")
    library = ctypes.CDLL(None, use_errno=True)
    apart = NEW_NETWORK | NEW_PROCESSES | NEW_IPC
    # With users of its own for everyone; without for root in a container that forbids those.
    if library.unshare(NEW_USERS | apart) == 0 or library.unshare(apart) == 0:
        return Alone(True)
    return Alone(False, os.strerror(ctypes.get_errno()).lower())


def tied() -> None:
    """Die with the parent, and let nobody look into the memory."""
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None, use_errno=True)
        library.prctl(DIE_WITH_PARENT, int(signal.SIGKILL), 0, 0, 0)
        library.prctl(DUMPABLE, 0, 0, 0, 0)


def confine(readable: Collection[Path], network: Alone, memory: int, seconds: float, result: int) -> str:
    """Give up files, connections, privileges, processes and memory beyond `memory` bytes; returns what was given up, in words.

    `result` is how many bytes a file that is open already may grow to.
    """
    limited = _resources(memory, seconds, result)
    _without_capabilities()
    try:
        found = landlock.restrict(readable)
        files = f"landlock {found}"
    except landlock.Absent as absent:
        found, files = 0, f"none: {absent}"
    open_calls = seccomp.restrict()
    if not open_calls:
        connections = "no network"
    elif network.yes:
        connections = f"no network but local sockets ({open_calls})"
    elif found >= 4:
        connections = f"no TCP, but UDP and local sockets are open ({open_calls}; no network of its own: {network.why})"
    else:
        connections = f"the network is open ({open_calls}; no network of its own: {network.why})"
    if open_calls:
        connections += ", modes, owners, times and attributes of files can be changed"
    size = f"{memory / limits.GIB:.3g} GiB" if limited else "memory is not limited here"
    return f"{files}{';' if not found else ','} {connections}, {size}"


def _resources(memory: int, seconds: float, result: int) -> bool:
    """Limits for what is done from now on, beside what importing the libraries took."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    wanted = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, result),
        (resource.RLIMIT_CPU, spent),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),  # no process and no thread more; does not bind root, whom the process tree binds
    ]
    for which, value in wanted:
        _, hard = resource.getrlimit(which)
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (lowest, lowest))
    try:
        now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
    except (OSError, ValueError):  # no /proc, or a system that does not limit it: said in the words
        return False
    return True


def _without_capabilities() -> None:
    """No capabilities, not even those of a user namespace, and none to be had again."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0)
    library.capset(ctypes.byref(head), ctypes.byref((ctypes.c_uint32 * 6)()))
