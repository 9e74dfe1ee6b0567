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


def kaplan_meier_median(times: Sequence[float], observed: Sequence[bool]) -> float | None:
    """The median time until something happens when some were watched for too short a time: None where fewer than half did.

    The smallest time at which the product-limit estimate of survival is at most 1/2 (Kaplan and Meier 1958, JASA 53).
    """
    whole, happened = np.asarray(times, dtype=float), np.asarray(observed, dtype=bool)
    if not happened.any():
        return None
    survival = stats.ecdf(stats.CensoredData(uncensored=whole[happened], right=whole[~happened])).sf
    below = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    return float(below[0]) if len(below) else None
