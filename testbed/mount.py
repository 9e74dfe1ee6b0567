"""The mount that a folder lies on, as the system tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """The kind of a file system ('ext4', 'nfs4', ...), and the options that it is mounted with and has itself."""

    kind: str
    options: tuple[str, ...]


def mount_of(folder: Path) -> Mount | None:
    """The mount that a folder lies on; None where the system does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    real, best, found = os.path.realpath(folder), -1, None
    for line in lines:
        words = line.split()
        point = words[4].encode().decode("unicode_escape")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= best:
            kind = line.partition(" - ")[2].split()[0]
            best, found = len(point), Mount(kind, tuple(option for word in words[5:] for option in word.split(",")))
    return found


def mount_options(folder: Path) -> tuple[str, ...]:
    """The options of the mount that a folder lies on; none where the system does not tell."""
    found = mount_of(folder)
    return () if found is None else found.options
