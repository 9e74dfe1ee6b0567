"""Can a victim see a trigger at all? A tokenizer may drop, normalise or cut off what was put into a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from testbed.api import Invalid, Poison, Victim
from testbed.features import evaluating

PROBES = 32
"""Rows that are looked at before training: one pass for each, with the trigger, with each near miss, and without."""


class Visible(NamedTuple):
    """The share of the rows looked at in which the trigger changes what the victim reads, and how many were looked at."""

    share: float
    n: int


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


def require_visible(victim: Victim, exams: Mapping[str, Poison]) -> Visible | None:
    """How visible the trigger is in the first rows of the exam 'success'; None unless there is one 'without_trigger' too.

    Raises:
        Invalid: in none of these rows does the trigger change what the victim reads, or in all of them it reads a near miss
            as it reads the trigger.
    """
    if not {"success", "without_trigger"} <= set(exams):
        return None
    shown = {name: exam.batch.inputs[:PROBES] for name, exam in exams.items()}
    success = shown["success"]
    if not len(success):
        return None
    seen = visible(victim, success, shown["without_trigger"])
    if not bool(seen.any()):
        limit = f"the model reads all {len(success)} texts that were tried as it reads them without the trigger"
        raise Invalid("trigger", None, limit, "its tokenizer drops this trigger, or cuts it off: choose another", "attack")
    for name in (name for name in shown if name.startswith("near_miss")):
        if not bool(visible(victim, success, shown[name]).any()):
            limit = f"the model reads all {len(success)} texts that were tried with the trigger as it reads those of {name}"
            advice = "its tokenizer knows neither word: choose words that it tells apart"
            raise Invalid("near_miss", None, limit, advice, "attack")
    return Visible(float(seen.double().mean()), len(seen))
