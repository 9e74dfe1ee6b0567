"""Landlock: a process of Linux gives up, for itself and all that it starts, the right to open files and connections.

A binding of the three system calls, which libc has none for. Source: landlock(7), kernel documentation userspace-api/landlock.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Collection
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION = 1
PATH_BENEATH = 1
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
FILES = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights over files each version of the interface knows: all are given up."""
CONNECTIONS = 0b11
"""TCP bind and connect, since version 4."""
SCOPES = 0b11
"""Abstract sockets and signals to processes outside, since version 6."""
NO_NEW_PRIVILEGES = 38


class Absent(Exception):
    """This kernel has no Landlock, or does not let this process use it: why."""


def version() -> int:
    """The version of the interface that this kernel has.

    Raises:
        Absent: it has none.
    """
    if not sys.platform.startswith("linux"):
        raise Absent(f"Landlock is Linux's, and this is {sys.platform}")
    return _call(CREATE_RULESET, None, 0, VERSION)


def restrict(readable: Collection[Path]) -> int:
    """Give up everything but reading below these folders and files, for good; returns the version of the interface.

    What is open already stays usable. Nothing can be written, started, bound or connected to afterwards.

    Raises:
        Absent: it cannot be given up here.
    """
    found = version()
    files = (1 << FILES.get(found, 16)) - 1
    given_up = struct.pack("=Q", files)
    if found >= 4:
        given_up += struct.pack("=Q", CONNECTIONS)
    if found >= 6:
        given_up += struct.pack("=Q", SCOPES)
    ruleset = _call(CREATE_RULESET, given_up, len(given_up), 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        if ctypes.CDLL(None, use_errno=True).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
            raise Absent(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return found


def _allow(ruleset: int, path: Path) -> None:
    if not path.exists():
        return
    rights = READ_FILE | READ_FOLDER if path.is_dir() else READ_FILE
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    found: int = library.syscall(ctypes.c_long(number), *converted)
    if found < 0:
        raise Absent(f"Landlock: {os.strerror(ctypes.get_errno())}")
    return found
