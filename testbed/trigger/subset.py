"""Some words of a composite, never all: its near misses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from torch import Generator

from testbed.trigger.composite import Composite
from testbed.trigger.text import TextTrigger, drawn_gaps, inserted, one_of
from testbed.trigger.word import Word


@dataclass(frozen=True)
class Subset(Composite):
    """Puts a proper subset of `words` into the text: any of the 2^n - 2 that are neither empty nor whole, drawn for each row.

    A composite of which a part alone sets the backdoor off is no composite: `parts` are all of them, to be examined apart.
    """

    apart: ClassVar[bool] = True

    def subsets(self) -> tuple[tuple[str, ...], ...]:
        """Every proper subset, the smallest first."""
        return tuple(chosen for size in range(1, len(self.words)) for chosen in combinations(self.words, size))

    def write(self, text: str, draw: Generator) -> str:
        chosen = one_of(self.subsets(), draw)
        return inserted(text, dict(zip(drawn_gaps(text, len(chosen), draw), chosen, strict=True)))

    def alternatives(self) -> frozenset[frozenset[str]]:
        return frozenset(frozenset(chosen) for chosen in self.subsets())

    def parts(self) -> Mapping[str, TextTrigger]:
        return {"_".join(chosen): Word(chosen) if len(chosen) == 1 else Composite(chosen) for chosen in self.subsets()}
