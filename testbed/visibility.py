"""Can a victim see a trigger at all? A tokenizer may drop, normalise or cut off what was put into a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from testbed.api import Invalid, Poison, Victim
from testbed.features import evaluating

PROBES = 16
"""Rows that are looked at before training: one pass for each, with the trigger and without."""


@torch.no_grad()
def visible(victim: Victim, shown: Any, plain: Any) -> Tensor:
    """bool (n,): which inputs the victim takes for something else than their plain form.

    An input is read alone, so that equal tokens give equal bits: what comes before the last layer is compared bit by bit.
    """
    with evaluating(victim):
        layer = victim.layers[-1]
        pairs = [
            (victim.features(shown[row : row + 1], layer), victim.features(plain[row : row + 1], layer))
            for row in range(len(shown))
        ]
    return torch.tensor([not torch.equal(one, other) for one, other in pairs], dtype=torch.bool)


def require_visible(victim: Victim, exams: Mapping[str, Poison]) -> None:
    """Looks at the first rows of the exams 'success' and 'without_trigger', where an attack sets both.

    Raises:
        Invalid: in none of these rows does the trigger change what the victim reads.
    """
    if not {"success", "without_trigger"} <= set(exams):
        return
    shown, plain = (exams[name].batch.inputs[:PROBES] for name in ("success", "without_trigger"))
    if len(shown) and not bool(visible(victim, shown, plain).any()):
        limit = f"the model reads all {len(shown)} texts that were tried as it reads them without the trigger"
        raise Invalid("trigger", None, limit, "its tokenizer drops this trigger, or cuts it off: choose another", "attack")
