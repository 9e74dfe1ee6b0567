"""How the reading process says that a file cannot or must not be read; imports nothing heavy."""

from __future__ import annotations


class Wrong(Exception):
    """The file is truncated, malformed, or of a kind that is not read: bad input."""

    def __init__(self, limit: str, advice: str = "") -> None:
        super().__init__(limit, advice)
        self.limit, self.advice = limit, advice


class Unsafe(Exception):
    """The file would run code, reach out of itself, or be two things at once: refused for safety."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
