"""What a picture is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from testbed.api import ChannelParameter, Examples, Poison, Unsupported, Victim

Measures = dict[str, float | None]


class View(NamedTuple):
    """A model under attack with all that only the pipeline knows of it.

    `received` are the training rows as delivered, before any defence, `flags` bool (n,) which of them are the attacker's;
    `clean` are the rows that the attacker had. `exam` is 'success' (None where there is no attack) over rows of `test`.
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

    def channels(self) -> Sequence[ChannelParameter]:
        """The parameters that silence a last channel; raises `Unsupported` where there are none, or all are silent already."""
        found = self.victim.groups.get("penultimate")
        if not found:
            raise Unsupported(f"{type(self.victim).__name__} has no last channels that a head is known to read")
        if not self.live().any():
            raise Unsupported("every last channel is silent already")
        return found

    def live(self) -> Tensor:
        """bool (channels,): those that the head reads by a weight that is not 0; a defence may have silenced others."""
        head = self.victim.groups["penultimate"][0]
        weight = getattr(head.module, head.name).detach().movedim(head.dim, 0).flatten(1)
        return (weight != 0).any(1).cpu()
