"""What the header of a method's YAML says: what it is, the command that was measured, the claim, the published numbers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GROUPS = ("attack", "defence", "detector")
LABELS = ("Claim", "Here", "Published")
VERDICTS = ("Shown.", "Shown in part", "Not shown")
NUMBER = re.compile(r"(\w+) (-?\d*\.?\d+)")


@dataclass(frozen=True)
class Published:
    """A line of published numbers: on what, by name of our measures, and where they stand."""

    setting: str
    numbers: dict[str, float]
    source: str


@dataclass(frozen=True)
class Header:
    """The comment lines at the top of a file in `conf/<group>`."""

    group: str
    name: str
    what: str
    paper: str
    command: tuple[str, ...]
    claim: str
    here: str
    published: tuple[Published, ...]

    @property
    def verdict(self) -> str:
        """'shown', 'shown in part: why', 'not shown: why', or '' where there is no claim."""
        place = max(self.here.rfind(word) for word in VERDICTS)
        said = self.here[place:].strip().rstrip(".") if place >= 0 else ""
        return f"{said[:1].lower()}{said[1:]}".replace("shown in part", "in part", 1)


def headers(conf: Path, groups: Sequence[str] = GROUPS) -> list[Header]:
    """Of every method, by group and name."""
    return [header(path) for group in groups for path in sorted((conf / group).glob("*.yaml"))]


def header(path: Path) -> Header:
    """Of one file.

    Raises:
        ValueError: a line of published numbers that cannot be read.
    """
    lines = _lines(path.read_text(encoding="utf-8"))
    what, _, paper = lines[0].rstrip(".").rpartition(" (")
    labelled = [(label, line.removeprefix(f"{label}: ")) for line in lines for label in LABELS if line.startswith(f"{label}: ")]
    told = {label: line for label, line in labelled if label != "Published"}
    published = tuple(_published(path, line) for label, line in labelled if label == "Published")
    command = tuple(shlex.split(lines[1]))[1:] if len(lines) > 1 and lines[1].startswith("testbed ") else ()
    return Header(
        *(path.parent.name, path.stem, what or paper, paper.rstrip(")") if what else "", command),
        *(told.get("Claim", ""), told.get("Here", ""), published),
    )


def _lines(text: str) -> list[str]:
    """The comment lines at the top, without their '#'; one that is indented goes on with the line before."""
    found: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#   ") and found:
            found[-1] += f" {line[1:].strip()}"
        else:
            found.append(line.removeprefix("#").strip())
    return found


def _published(path: Path, line: str) -> Published:
    body, _, source = line.rstrip(".").rpartition(" (")
    setting, _, told = body.rpartition(": ")
    numbers = {name: float(value) for name, value in NUMBER.findall(told)}
    if not (setting and numbers and source):
        raise ValueError(f"{path}: 'Published: SETTING: measure .123, ... (SOURCE)' is wanted, not {line!r}")
    return Published(setting, numbers, source.rstrip(")"))
