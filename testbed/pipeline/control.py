"""What a detector of queries in text has to be read beside: its clean twin, harmless queries, and what needs no detector."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from testbed.api import DefenderResources, Detector, Examples, Victim
from testbed.baseline import trivial_scores
from testbed.data.overlay import unlabelled
from testbed.metrics import detection

Found = tuple[dict[str, Any], dict[str, int]]
Side = tuple[Victim, DefenderResources]


class Asked(NamedTuple):
    """Queries without answers, and which of them are the attacker's, bool (n,)."""

    queries: Examples
    suspicious: Tensor


def controls(
    detector: Detector,
    asked: Asked,
    scores: Tensor,
    *,
    at_war: Side,
    in_peace: Side,
    harmless: Examples | None,
    near: Examples | None = None,
) -> Found:
    """AUROCs over the same queries, and one over others; higher is more suspicious throughout, so that .5 is nothing.

    `clean_twin_auroc`: by the detector on the clean twin, to which the trigger means nothing. `baseline_length_auroc`,
    `_tokens_auroc`, `_perplexity_auroc`: see `baseline`. `baseline_layer0_auroc`: by the same detector at the model's first
    layer, where it has a `layer` (a chat model's is the last token of the prompt, and with rotary positions always the same
    there). `harmless_auroc`: the attacker's queries against `harmless` ones, which nobody would refuse. `near_miss_auroc`, and
    `clean_twin_near_miss_auroc`: against `near` misses of the trigger, which are as long and as strange.
    """
    victim, defender = at_war
    found = {"clean_twin": detector.score(asked.queries, *in_peace)}
    trivial = trivial_scores(asked.queries, victim, defender.reserve)
    found |= {f"baseline_{name}": values for name, values in trivial.items()}
    if is_dataclass(detector) and hasattr(detector, "layer"):
        first: Any = replace(detector, layer=victim.layers[0])  # type: ignore[type-var]
        found["baseline_layer0"] = first.score(asked.queries, victim, defender)
    measured = {f"{name}_auroc": _auroc(values, asked.suspicious) for name, values in found.items()}
    counts = dict.fromkeys(measured, len(asked.queries))
    on_twin = found["clean_twin"]
    for name, others in (("harmless", harmless), ("near_miss", near)):
        if others is not None and len(others):
            queries = unlabelled(others, torch.arange(len(others)))
            pairs = {"": (scores, at_war), **({"clean_twin_": (on_twin, in_peace)} if name == "near_miss" else {})}
            for prefix, (known, side) in pairs.items():
                mine, theirs = known[asked.suspicious], detector.score(queries, *side)
                truth = torch.arange(len(theirs) + len(mine)) >= len(theirs)
                measured[f"{prefix}{name}_auroc"] = _auroc(torch.cat([theirs, mine]), truth)
                counts[f"{prefix}{name}_auroc"] = len(truth)
    return measured, counts


def _auroc(scores: Tensor, suspicious: Tensor) -> float | None:
    return detection(scores, suspicious, None)[0]["auroc"]
