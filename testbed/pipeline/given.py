"""What a defender is given to work with: plain functions, whose attributes lead to no folder and to no clean row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from testbed.api import Examples, Fit, Victim
from testbed.fit import Settings, fit
from testbed.identity import describe, key, weights_digest


def name_of(victim: Victim) -> str:
    """The same for models that were the same before anything was trained; fresh adapters, which differ by seed, add nothing."""
    own = weights_digest(victim) if not getattr(victim, "lora", False) else ""
    return key(victim=describe(victim), weights=own)[:16]


def copies(victim: Victim) -> Callable[[], Victim]:
    """A plain function that gives this victim anew each time."""

    def fresh() -> Victim:
        return copy.deepcopy(victim)

    return fresh


def training(settings: Settings, seed: int) -> Fit:
    """The defender's own training, shared with nobody's: a plain function that leads to no folder and no clean row."""

    def trained(victim: Victim, examples: Examples, **options: Any) -> Victim:
        chosen = {name: value for name, value in options.items() if value is not None}
        return fit(copy.deepcopy(victim), examples, settings=settings, seed=seed, **chosen)[0]

    return trained
