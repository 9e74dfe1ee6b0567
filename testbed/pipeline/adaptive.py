"""Was an attack made for the very method that it met? What a comparison needs before it calls a method adaptively tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from testbed.api import Attack, Defence
from testbed.identity import overrides

STAGES = ("during_alignment", "before_training", "during_training", "after_training", "at_inference")


def adaptivity(attack: Attack, method: Any) -> dict[str, Any]:
    """Measures that tell whether this attack was adapted to this method, and at what expense.

    `adaptive` is true where the attacker was handed this very defence (and it does something at all), or where the recipe
    says that it was made against it, or against the detector that it works with (`adapted_to`: names of their modules).
    `attack_budget_<what>` are the numbers of the attack's own `budget`, such as rounds, steps and surrogates trained.
    """
    known = attack.adaptive and isinstance(method, Defence) and overrides(method, Defence, *STAGES)
    declared = set(getattr(attack, "adapted_to", ())) & set(_names(method))
    budget: Mapping[str, float] = getattr(attack, "budget", {})
    return {"adaptive": bool(known or declared), **{f"attack_budget_{name}": value for name, value in budget.items()}}


def _names(method: Any) -> Iterator[str]:
    """What a method and its parts are called: 'filter', and of its detector 'spectral_signatures'."""
    if is_dataclass(method) and not isinstance(method, type):
        yield type(method).__module__.rpartition(".")[2]
        for field in fields(method):
            yield from _names(getattr(method, field.name))
