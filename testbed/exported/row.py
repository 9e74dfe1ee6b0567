"""What is said of every exported row, beside it and never in it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.api import Examples, Invalid
from testbed.data.overlay import rows_of
from testbed.files import beside, sweep, to_disk
from testbed.marks import CANARY

APPENDED = -1
"""Stands for the row of the clean set where there is none."""
READ_TOGETHER = 1024


@dataclass(frozen=True)
class Part:
    """Rows in the order in which they were delivered: `source` int64 (n,) is the clean row that stood there, or `APPENDED`.

    `poisoned` and `cover` are bool (n,).
    """

    name: str
    rows: Examples
    source: Tensor
    poisoned: Tensor
    cover: Tensor

    @classmethod
    def clean(cls, name: str, rows: Examples) -> Part:
        """Rows that nobody changed."""
        nobody = torch.zeros(len(rows), dtype=torch.bool)
        return cls(name, rows, torch.arange(len(rows)), nobody, nobody)

    def each(self) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
        """Input, label and what is said of each row."""
        for places in torch.arange(len(self.rows)).split(READ_TOGETHER):
            batch = self.rows[places]
            labels = batch.labels.tolist() if isinstance(batch.labels, Tensor) else batch.labels
            inputs = rows_of(batch.inputs, torch.arange(len(places)))
            for place, one, label in zip(places.tolist(), inputs, labels, strict=True):
                yield one, label, self.said(place)

    def said(self, place: int) -> dict[str, Any]:
        """The mark of one row."""
        return {
            "position": place,
            "row": int(self.source[place]),
            "poisoned": bool(self.poisoned[place]),
            "cover": bool(self.cover[place]),
            "canary": CANARY,
        }


@contextmanager
def fresh(place: Path, *, private: bool) -> Iterator[Path]:
    """A folder that takes its place once it is whole, and vanishes when not: nothing there is ever overwritten.

    What exports left in the folder above when they were killed goes first.

    Raises:
        Invalid: something is there already, or was put there meanwhile.
    """
    taken = Invalid("to", place, "is there already, and nothing is overwritten", "name another folder, or remove it")
    if place.exists() or place.is_symlink():
        raise taken
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(place.parent)
    new = beside(place)
    new.mkdir(mode=0o700)
    try:
        yield new
        # Pictures are not waited for one by one: there may be many thousands, and the tables know the hash of each.
        for path in [*(path for path in new.rglob("*") if path.is_file() and path.suffix != ".png"), new]:
            to_disk(path)
        new.chmod(0o700 if private else 0o755)
        try:
            new.rename(place)
        except OSError as error:  # another export to the same place was quicker
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise taken from error
    except BaseException:
        shutil.rmtree(new)
        raise
    to_disk(place.parent)


def write_private(path: Path, content: str | bytes, *, private: bool) -> None:
    """A new file, for its owner's eyes alone if `private`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


def folders_of(classes: Mapping[int, str] | tuple[str, ...]) -> list[str]:
    """A folder's name for each class, whose order is that of the classes: the class's own where that is so, else numbered."""
    names = list(classes.values()) if isinstance(classes, Mapping) else list(classes)
    plain = all(name.replace("-", "").replace("_", "").isalnum() and name.isascii() and len(name) <= 80 for name in names)
    if plain and sorted(names) == names and len(set(map(str.lower, names))) == len(names):
        return names
    width = len(str(len(names) - 1))
    return [f"{place:0{width}}-{_slug(name)}".rstrip("-") for place, name in enumerate(names)]


def _slug(name: str) -> str:
    letters = [letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower()]
    return "".join(letters)[:60].strip("-")
