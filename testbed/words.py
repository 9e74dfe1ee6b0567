"""The nearest right name, for people who mistype. Imports nothing heavy: it answers before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(name: str, names: Sequence[str]) -> str:
    """'did you mean x?', or all the names where none is near."""
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"


class Refused(Exception):
    """A command line that cannot be obeyed: one line that says why, and the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(" ".join(message.splitlines()))
        self.code = code


class Terminated(BaseException):
    """A scheduler or a person asked this process to end (SIGTERM): the run is interrupted, not failed."""
