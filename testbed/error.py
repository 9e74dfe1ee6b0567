"""What goes wrong, in one line: methods raise these by their names in `testbed.api`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SHOWN = 300
"""Letters of a value that an error shows."""


def escaped(text: str) -> str:
    """The text with what a terminal would obey escaped: control and formatting characters, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode() for letter in text
    )


def shortened(value: str, most: int = SHOWN) -> str:
    """A text, or its beginning and how long it is."""
    return value if len(value) <= most else f"{value[:most]}... ({len(value)} letters)"


class Unsupported(Exception):
    """'needs a convolutional model': a method that does not apply is recorded as skipped, never a crash."""


class Diverged(Exception):
    """The loss or a weight became NaN or infinite: a failed run, never a score."""


class Invalid(ValueError):
    """A parameter that cannot work: which, its value, the limit, and what to do.

    `component` ('attack', 'data', ...) is filled in by whoever called the method, so that the message can name the
    configuration key.
    """

    def __init__(self, parameter: str, value: Any, limit: str, advice: str = "", component: str = "") -> None:
        super().__init__(parameter, value, limit, advice)
        self.parameter, self.value, self.limit, self.advice = parameter, value, limit, advice
        self.component = component

    @property
    def key(self) -> str:
        return ".".join(part for part in (self.component, self.parameter) if part)

    def __str__(self) -> str:
        shown = "" if self.value is None else f"={shortened(str(self.value))}"
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.key}{shown}: {self.limit}{advice}"


class Unreadable(Invalid):
    """A model cannot read data of this kind or size: bad input to a run, and in `check` no fault of the model's."""


@contextmanager
def component(name: str) -> Iterator[None]:
    """Errors raised inside belong to the component of this name in the configuration."""
    try:
        yield
    except Invalid as error:
        error.component = error.component or name
        raise
