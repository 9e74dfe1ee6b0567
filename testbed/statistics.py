"""Numbers over seeds -> intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean with what it rests on: `low` and `high` are None where one number is all there is."""

    mean: float
    low: float | None
    high: float | None
    n: int


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean over models and its Student interval, clipped to nothing: mean +- t sd / sqrt(n).

    It is about models trained with other seeds, not about more test rows for these.
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, None, None, len(array))
    half = float(stats.t.ppf((1 + confidence) / 2, len(array) - 1) * stats.sem(array))
    return Interval(mean, mean - half, mean + half, len(array))


def wilson(rate: float, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of one model's rate over n test rows (Wilson 1927, JASA 22)."""
    found = stats.binomtest(round(rate * n), n).proportion_ci(confidence, method="wilson")
    return Interval(rate, float(found.low), float(found.high), n)
