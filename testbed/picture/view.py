"""What a picture is drawn from, and how it is put on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from testbed.api import Examples, Poison, Unsupported, Victim
from testbed.figure import SAID

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


@contextmanager
def drawing(path: Path, *, width: float = 6.0, height: float = 4.2) -> Iterator[Any]:
    """A Matplotlib axis whose figure is written to `path` afterwards."""
    import matplotlib as mpl  # a second to import: only where something is drawn

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(width, height), layout="constrained")
    try:
        yield axis
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata=SAID)
    finally:
        pyplot.close(figure)
