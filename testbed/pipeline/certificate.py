"""What a certified defence guarantees, beside what was measured: accuracy that no poison of a given size can take away."""

from __future__ import annotations

from torch import Tensor

from testbed.api import Examples, Poison
from testbed.data.overlay import rows_of
from testbed.metrics import Answers, Counts, Measures


def touched(poison: Poison, clean: Examples) -> int:
    """By how many rows the poisoned set differs from the clean one: 2 for a row replaced, 1 for one added or only relabelled.

    A row is only relabelled where its inputs stay: a guarantee by parts of the rows must then hold for a label that is changed.
    """
    there = (poison.indices < len(clean)).nonzero().flatten()
    before, after = clean[poison.indices[there]].inputs, rows_of(poison.batch.inputs, there)
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        replaced = int((before != after).flatten(1).any(1).sum())
    else:
        replaced = sum(one != other for one, other in zip(before, after, strict=True))
    return len(poison.indices) + replaced


def certified(clean: Answers, budget: int) -> tuple[Measures, Counts]:
    """Certified accuracies on the clean test, where the victim has a guarantee; nothing where it has none.

    A row counts at radius r if it is answered correctly and its own radius is r or more: then no r rows, added or removed in
    any way, would have changed the answer. `budget` is what this attack really touched, for comparison with what was measured
    under it; the median (of two in the middle the smaller) and the largest radius are of all rows, wrong answers having none.

    Source: the certified accuracy of Levine and Feizi 2021 (ICLR, arXiv 2006.14768).
    """
    if clean.radius is None or clean.correct is None:
        return {}, {}
    radius = clean.radius.masked_fill(~clean.correct, -1)
    measures: Measures = {
        "certified_accuracy_at_1": _share(radius >= 1),
        "certified_accuracy_at_poison": _share(radius >= budget),
        "certified_radius_median": float(radius.clamp_min(0).median()),
        "certified_radius_largest": float(radius.max().clamp_min(0)),
        "certified_rows_touched": float(budget),
    }
    return measures, {name: len(radius) for name in measures if name != "certified_rows_touched"}


def _share(met: Tensor) -> float:
    return float(met.double().mean())
