"""What a picture is drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from testbed.api import Examples, Poison, Unsupported, Victim

Measures = dict[str, float | None]


class View(NamedTuple):
    """A model under attack with all that only the pipeline knows of it.

    `received` are the rows that it was trained on, `flags` bool (n,) which of them are the attacker's; `clean` are the rows
    that the attacker had. `exam` is 'success' (None where there is no attack) over rows of `test`.
    """

    folder: Path
    victim: Victim
    received: Examples
    flags: Tensor
    clean: Examples
    poison: Poison
    test: Examples
    exam: Poison | None
    reserve: Examples
    seed: int

    def attacked(self) -> Poison:
        """The exam; raises `Unsupported` where there is none."""
        if self.exam is None or not len(self.exam.indices):
            raise Unsupported("no exam shows a trigger")
        return self.exam
