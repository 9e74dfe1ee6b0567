"""Numbers over seeds -> intervals, paired tests and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

FEWEST_PAIRS = 6
"""Below this, no test can tell: p is None."""
NEAR = 1e-9
"""Closer to 0 or 1 than this no bound of an AUROC is looked for."""
DRAWS = 2**15
"""Points of a scrambled Sobol sequence, always the same ones, in place of an integral."""


class Interval(NamedTuple):
    """A mean with what it rests on: `low` and `high` are None where one number is all there is."""

    mean: float
    low: float | None
    high: float | None
    n: int


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean over models and its Student interval, clipped to nothing: mean +- t sd / sqrt(n).

    It is about models trained with other seeds, not about more test rows for these. It is for spread that is bell-shaped: where
    some seeds fail and others succeed it misses the mean far more often than 1 in 20. At 3 seeds it covers 94 % if bell-shaped,
    63 % where 7 of 10 seeds succeed, 27 % where 9 of 10 do, and a percentile bootstrap 74, 63 and 27 % (n = 2000 each, by
    scripts/interval_coverage.py; all of it in docs/statistics.md).
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, None, None, len(array))
    half = _student((1 + confidence) / 2, len(array) - 1) * float(array.std(ddof=1)) / len(array) ** 0.5
    return Interval(mean, mean - half, mean + half, len(array))


@lru_cache(maxsize=256)
def _student(level: float, freedom: int) -> float:
    return float(stats.t.ppf(level, freedom))


def guaranteed(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of numbers in 0..1 and an interval for it that holds whatever their distribution is, at every n.

    Both sides are bounds of Phan, Thomas and Learned-Miller (ICML 2021, arXiv 2106.03163) at half of 1 - confidence each. Of
    their family, which has a member for every order T of the samples, this is T(x) = integral over t of sqrt(share of x above
    t): nearly as narrow as the bound of Gaffke (2005; Learned-Miller and Thomas 2019, arXiv 1905.06208), of which only a
    conjecture says that it holds. The price is width: three ones still allow a mean of 0.29. It covered 99 % or more in each
    of the five populations of docs/statistics.md at 3, 5 and 8 seeds (n = 2000 each).

    Raises:
        ValueError: a number is not in 0..1.
    """
    array = np.asarray(values, dtype=float)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{array.tolist()}: numbers in 0..1 alone have a guaranteed interval")
    return Interval(float(array.mean()), *_ends(tuple(sorted(array.tolist())), (1 + confidence) / 2), len(array))


@lru_cache(maxsize=4096)
def _ends(values: tuple[float, ...], level: float) -> tuple[float, float]:
    array = np.array(values)
    return 1 - _upper(1 - array[::-1], level), _upper(array, level)


def _upper(values: np.ndarray, level: float) -> float:
    """Of the greatest means that samples of the same T or less allow, the quantile at `level`; `values` ascend."""
    n = len(values)
    costs, gains, rest = _greatest(n)
    spent = float(np.diff(values, prepend=0.0) @ costs[:0:-1])
    place = min(int(np.searchsorted(costs, spent, side="right")), n)
    share = (spent - costs[place - 1]) / (costs[place] - costs[place - 1])
    means = rest + (1 - share) * gains[place - 1] + share * gains[place]
    exact = min(int(np.ceil(level * (len(means) + 1))), len(means)) - 1
    return float(min(np.partition(means, exact)[exact], 1.0))


@lru_cache(maxsize=64)
def _greatest(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs (n + 1,), gains (n + 1, draws) and what no sample can tell (draws,): the mean is at most rest + gain(T).

    For order statistics u of n uniform numbers, the mean is at most the sum of z_i (u_i - u_{i-1}) + 1 - u_n over the sorted
    sample z. Raising the k largest of z by one costs sqrt(k / n) of T and gains u_n - u_{n-k}; what a budget of T gains at most
    is the least concave function above these points (a linear programme with two constraints).
    """
    draws = np.sort(stats.qmc.Sobol(n, seed=n).random(DRAWS), axis=1).T
    costs = np.sqrt(np.arange(n + 1) / n)
    points = draws[-1] - np.vstack([draws[::-1], np.zeros(DRAWS)])
    gains = points.copy()
    for left, right in combinations(range(n + 1), 2):
        for between in range(left + 1, right):
            share = (costs[between] - costs[left]) / (costs[right] - costs[left])
            np.maximum(gains[between], (1 - share) * points[left] + share * points[right], out=gains[between])
    return costs, gains, 1 - draws[-1]


def sign_flips(differences: Sequence[float]) -> float | None:
    """Two-sided p of paired differences symmetric about 0, by flipping their signs in all 2^n ways; None below 6 pairs.

    It tests symmetry about 0, not a mean of 0: where a method gains 0.1 on 9 of 10 seeds and loses 0.9 on the others, so that
    the mean difference is 0, p is below 0.05 in 55 % of samples of 6 pairs and 36 % of 10 (n = 2000 each, by
    scripts/interval_coverage.py). Five pairs can give no p below 2 / 2^5 = 0.06. Above 13 pairs, 9999 flips are drawn (from a
    fixed seed) instead.
    """
    if len(differences) < FEWEST_PAIRS:
        return None
    array = np.asarray(differences, dtype=float)
    found = stats.permutation_test((array,), np.mean, permutation_type="samples", n_resamples=9999, random_state=0)
    return float(found.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number: max over j <= i of min(1, (m - j + 1) p_(j)) (Holm 1979, Scand. J. Statist. 6).

    A family is fixed before its tests are made: one that has no p yet (None) counts as a test, and stays None.
    """
    known = np.array([1.0 if p is None else p for p in p_values])
    order = np.argsort(known, kind="stable")
    raised = np.minimum(1, np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)))
    corrected = np.empty(len(known))
    corrected[order] = raised
    return [None if p is None else float(value) for p, value in zip(p_values, corrected, strict=True)]


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the greatest; equal numbers share the mean of their ranks."""
    return [float(rank) for rank in stats.rankdata(-np.asarray(values, dtype=float))]


def separation(clean: Sequence[float], other: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """AUROC and its score interval; None if either is empty.

    AUROC is how often a number of `other` is above one of `clean`, ties counting half (Mann and Whitney 1947). The interval
    holds every a with |AUROC - a| <= z sqrt(V(a)), where V is Hanley and McNeil's variance for exponential scores with both
    sizes replaced by their mean in its numerator,

        V(a) = a (1 - a) [1 + ((m + n) / 2 - 1) ((1 - a) / (2 - a) + a / (1 + a))] / (m n):

    method 5 of Newcombe (2006, Statistics in Medicine 25, part 2). Complete separation by few models leaves it wide.
    """
    if not len(clean) or not len(other):
        return None
    pairs, more = len(clean) * len(other), (len(clean) + len(other)) / 2 - 1
    found = float(stats.mannwhitneyu(other, clean).statistic / pairs)
    z = float(stats.norm.ppf((1 + confidence) / 2))

    def outside(area: float) -> float:
        variance = area * (1 - area) * (1 + more * ((1 - area) / (2 - area) + area / (1 + area))) / pairs
        return (found - area) ** 2 - z**2 * variance

    within = min(max(found, NEAR), 1 - NEAR)  # at 0 and 1 themselves the variance is none
    low = optimize.brentq(outside, 0.0, within) if found > 0 else 0.0
    high = optimize.brentq(outside, within, 1.0) if found < 1 else 1.0
    return Interval(found, float(low), float(high), len(clean) + len(other))


def wilson(rate: float, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of one model's rate over n test rows (Wilson 1927, JASA 22)."""
    found = stats.binomtest(round(rate * n), n).proportion_ci(confidence, method="wilson")
    return Interval(rate, float(found.low), float(found.high), n)


def over_trials(outcomes: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of outcomes in 0..1 of independent trials and Wilson's score interval for it, n being the trials.

    With p the mean and z the normal quantile, the ends are (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    (Wilson 1927, JASA 22). For outcomes of 0 or 1 that is the binomial interval. Where an outcome is a rate, p (1 - p) is the
    most that its variance can be, so that the interval is too wide rather than too narrow.

    Raises:
        ValueError: an outcome is not in 0..1.
    """
    array = np.asarray(outcomes, dtype=float)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{array.tolist()}: outcomes in 0..1 alone have an interval over trials")
    n, p, z = len(array), float(array.mean()), float(stats.norm.ppf((1 + confidence) / 2))
    centre, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    low, high = ((centre + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return Interval(p, max(low, 0.0), min(high, 1.0), n)


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
