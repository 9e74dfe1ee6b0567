"""The nearest right name, for people who mistype, and what a name may hold. Imports nothing heavy: it answers at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from testbed.error import Invalid

NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")
NAMING = "a name may hold letters, digits, '.', '_' and '-', 80 at most"


def nearest(name: str, names: Sequence[str]) -> str:
    """'did you mean x?', or all the names where none is near."""
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"


def safe_name(name: str, parameter: str) -> str:
    """A name that can be part of a path.

    Raises:
        Invalid: it holds anything but letters, digits, '.', '_' and '-', or is longer than 80.
    """
    if not NAME.fullmatch(name) or set(name) == {"."}:
        raise Invalid(parameter, name, NAMING, "rename it")
    return name


class Refused(Exception):
    """A command line that cannot be obeyed: one line that says why, and the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(" ".join(message.splitlines()))
        self.code = code


class Terminated(BaseException):
    """A scheduler or a person asked this process to end (SIGTERM): the run is interrupted, not failed."""


class Faulty(Exception):
    """A method failed, or did what no method may: a failed run, whose reason names the method in one line."""


class TimedOut(BaseException):
    """A run took longer than it may: recorded as `timeout`. No Exception, so that a method that catches those is ended too."""
