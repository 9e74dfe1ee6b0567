"""What a picture is drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from testbed.api import Examples, Poison, Unsupported, Victim

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

    def norms(self) -> Tensor:
        """float (channels,): the L2 norm of the head's weights that read each last channel, 0 where a defence silenced it.

        Raises:
            Unsupported: no head is known to read the last channels, or all are silent.
        """
        parameters = self.victim.groups.get("penultimate")
        if not parameters:
            raise Unsupported(f"{type(self.victim).__name__} has no last channels that a head is known to read")
        head = parameters[0]
        found = getattr(head.module, head.name).detach().movedim(head.dim, 0).flatten(1).norm(dim=1).cpu()
        if not found.any():
            raise Unsupported("every last channel is silent already")
        return found
