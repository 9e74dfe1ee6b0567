"""One thing that was looked at: whether it will do, what it is, and what to do where it will not."""

from __future__ import annotations

import errno
from typing import Literal, NamedTuple

INPUT, RESOURCES = 2, 4
"""Exit codes: what was named is not there or is damaged; the machine lacks something."""


class Finding(NamedTuple):
    """A line of `testbed doctor`. `code` is the exit code that a problem gives."""

    mark: Literal["ok", "warning", "problem"]
    what: str
    said: str
    advice: str = ""
    code: int = RESOURCES

    def __str__(self) -> str:
        return f"{self.mark:<9}{self.what:<18}{self.said}{f'; {self.advice}' if self.advice else ''}"


def reason(error: OSError) -> str:
    """'no space left on device' of an error of the system."""
    return (error.strerror or errno.errorcode.get(error.errno or 0, type(error).__name__)).lower()


def size(count: float) -> str:
    """'1.5 GB' of a number of bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
