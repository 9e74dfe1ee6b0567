"""The nearest right name, for people who mistype, and what a name may hold. Imports nothing heavy: it answers at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import accumulate

from testbed.error import Invalid, shortened

NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")
NAMING = "a name may hold letters, digits, '.', '_' and '-', 80 at most"


MOST_WORDS, LONGEST_WORD, LONGEST_LINE = 500, 10_000, 100_000
MOST_COMMAS, DEEPEST = 1_000, 20
"""What a command line may have: Hydra's grammar takes minutes over more, and its parser recurses."""
PAIRS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def nearest(name: str, names: Sequence[str]) -> str:
    """'did you mean x?', or all the names where none is near."""
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"


def some(names: Sequence[str]) -> str:
    """Up to three names, and a sign that there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def misfits(complaints: Mapping[str, Sequence[str]]) -> str:
    """'2 missing: a, b; 1 unknown: c' of names by what is wrong with them; '' where there are none."""
    return "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in complaints.items() if names)


def safe_name(name: str, parameter: str) -> str:
    """A name that can be part of a path.

    Raises:
        Invalid: it holds anything but letters, digits, '.', '_' and '-', or is longer than 80.
    """
    if not NAME.fullmatch(name) or set(name) == {"."}:
        raise Invalid(parameter, name, NAMING, "rename it")
    return name


def check_words(words: Sequence[str]) -> None:
    """Raises `Refused` for a command line of more words, or of longer or deeper ones, than can be read in a second."""
    advice = "put them into a file, DIR/GROUP/NAME.yaml, and say --config-dir=DIR GROUP=NAME"
    if len(words) > MOST_WORDS or sum(map(len, words)) > LONGEST_LINE:
        counted = f"{len(words)} words of {sum(map(len, words))} letters"
        raise Refused(f"{counted}: at most {MOST_WORDS} of {LONGEST_LINE} are read; {advice}")
    for word in words:
        if len(word) > LONGEST_WORD or word.count(",") > MOST_COMMAS:
            counted = f"{len(word)} letters and {word.count(',')} commas"
            limit = f"at most {LONGEST_WORD} and {MOST_COMMAS} are read in one word"
            raise Refused(f"{shortened(word, 40)}: {counted}, where {limit}; {advice}")
        if depth(word) > DEEPEST:
            raise Refused(f"{shortened(word, 40)}: brackets more than {DEEPEST} deep in one another; {advice}")


def depth(word: str) -> int:
    """The most brackets that are open at once, those in quotes too."""
    return max(accumulate(PAIRS.get(letter, 0) for letter in word), default=0)


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
