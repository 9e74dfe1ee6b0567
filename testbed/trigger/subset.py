"""Some words of a composite, never all: its near misses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from testbed.trigger.composite import Composite
from testbed.trigger.text import drawn_gaps, inserted


@dataclass(frozen=True)
class Subset(Composite):
    """Puts a proper subset of `words` into the text: any of the 2^n - 2 that are neither empty nor whole, drawn for each row.

    A composite of which a part alone sets the backdoor off is no composite: see what these do, always.
    """

    def write(self, text: str, draw: Generator) -> str:
        code = int(torch.randint(1, 2 ** len(self.words) - 1, (1,), generator=draw))
        chosen = [word for place, word in enumerate(self.words) if code >> place & 1]
        return inserted(text, dict(zip(drawn_gaps(text, len(chosen), draw), chosen, strict=True)))
