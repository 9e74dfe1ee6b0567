"""Intervals and tests against textbook formulas, cases counted by hand, and simulation."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import qmc

from testbed import statistics
from testbed.rules import SIGNIFICANT, fewest_pairs
from testbed.statistics import guaranteed, holm, over_seeds, over_trials, ranks, separation, sign_flips, wilson


def test_student_interval_by_hand() -> None:
    found = over_seeds([0.9, 0.8, 1.0])
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t(.975, 2)
    assert found.n == 3 and found.mean == pytest.approx(0.9) and found.high == pytest.approx(0.9 + half)
    assert over_seeds([0.5]) == (0.5, None, None, 1)


@given(n=st.integers(1, 3000), data=st.data())
def test_wilson_by_its_formula(n: int, data) -> None:
    hits, z = data.draw(st.integers(0, n)), 1.959963984540054
    rate = hits / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    found = wilson(rate, n)
    assert found.low == pytest.approx(max(0, centre - half), abs=1e-9) and found.high == pytest.approx(
        min(1, centre + half), abs=1e-9
    )


@given(hits=st.lists(st.booleans(), min_size=1, max_size=60))
def test_trials_that_end_in_0_or_1_have_the_binomial_interval_of_wilson(hits: list[bool]) -> None:
    found, n = over_trials([float(hit) for hit in hits]), len(hits)
    known = wilson(sum(hits) / n, n)
    assert found.n == n and found == (pytest.approx(known.mean), pytest.approx(known.low), pytest.approx(known.high), n)


def test_the_interval_over_trials_holds_for_rates_as_well() -> None:
    draws = np.random.default_rng(0)
    # Pairs of which some are easy and others not: Beta(.3, .2) has mean .6. Covered 98.4 to 98.9 % of the time, for 4 seeds.
    found = [over_trials(draws.beta(0.3, 0.2, 12)) for _ in range(2000)]
    assert np.mean([one.low <= 0.6 <= one.high for one in found]) > 0.97
    with pytest.raises(ValueError, match=r"outcomes in 0\.\.1 alone"):
        over_trials([1.5])


def test_zero_of_a_hundred_is_not_zero() -> None:
    assert wilson(0.0, 100).high == pytest.approx(0.037, abs=5e-4)


def largest_mean(budget: float, u: list[float]) -> float:
    """By linear programming: the greatest mean that a sample of this T allows, u being sorted uniform numbers."""
    n = len(u)
    steps = [math.sqrt((n - j) / n) for j in range(n)]  # T of raising all but the j smallest by 1
    gains = [u[-1] - (u[j - 1] if j else 0.0) for j in range(n)]
    found = linprog([-gain for gain in gains], A_ub=[steps, [1.0] * n], b_ub=[budget, 1.0], method="highs")
    return 1 - u[-1] - found.fun


@given(values=st.lists(st.floats(0, 1, width=16), min_size=1, max_size=5), draw=st.integers(0, statistics.DRAWS - 1))
def test_the_guaranteed_bound_solves_its_linear_programme(values: list[float], draw: int) -> None:
    n, ascending = len(values), sorted(values)
    steps = [ascending[0], *(late - early for early, late in pairwise(ascending))]
    budget = sum(step * math.sqrt((n - j) / n) for j, step in enumerate(steps))
    u = sorted(qmc.Sobol(n, seed=n).random(statistics.DRAWS)[draw])
    costs, gains, rest = statistics._greatest(n)
    assert np.interp(budget, costs, gains[:, draw]) + rest[draw] == pytest.approx(largest_mean(budget, list(u)), abs=1e-9)


@pytest.mark.parametrize("n", [1, 3, 5, 8])
def test_of_equal_ends_the_guaranteed_interval_is_that_of_clopper_and_pearson(n: int) -> None:
    """Ones alone: the mean is at least 0.025 ^ (1 / n). Of n from 1 to 8, 2^15 points were off by at most 0.0012."""
    assert guaranteed([1.0] * n).low == pytest.approx(0.025 ** (1 / n), abs=0.002) and guaranteed([1.0] * n).high == 1
    assert guaranteed([0.0] * n).high == pytest.approx(1 - 0.025 ** (1 / n), abs=0.002) and guaranteed([0.0] * n).low == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_guaranteed_interval_holds_the_sample_mean_and_turns_with_it(values: list[float]) -> None:
    found, turned = guaranteed(values), guaranteed([1 - value for value in values])
    assert -1e-9 <= found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high <= 1 and found.n == len(values)
    assert turned.low == pytest.approx(1 - found.high, abs=1e-9)
    assert guaranteed(list(reversed(values))) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("values", [[1.2, 0.5], [-0.1], [math.nan, 0.5]])
def test_other_numbers_have_no_guaranteed_interval(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"numbers in 0\.\.1 alone"):
        guaranteed(values)


@pytest.fixture(scope="module")
def coverage() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "scripts"))
        import interval_coverage

        yield interval_coverage
    del sys.modules["interval_coverage"]


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_guaranteed_interval_covers_in_every_population(coverage: ModuleType, seeds: int) -> None:
    for name, population in coverage.POPULATIONS.items():
        found = coverage.simulate("guaranteed", population, seeds, 500)
        assert found.share >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / found.simulations), name


def test_a_bootstrap_over_three_seeds_covers_three_quarters_and_student_misses_where_some_seeds_fail(
    coverage: ModuleType,
) -> None:
    """Standard error 0.014; 2000 simulations gave 0.742, 0.940 and, of points 0 and 1, 0.268 (docs/statistics.md)."""
    bell, *_, points = coverage.POPULATIONS.values()
    assert coverage.simulate("bootstrap", bell, 3, 1000).share == pytest.approx(0.75, abs=0.042)
    assert coverage.simulate("Student", bell, 3, 1000).share == pytest.approx(0.94, abs=0.03)
    assert coverage.simulate("Student", points, 3, 1000).share < 0.35


def test_sign_flips_by_counting() -> None:
    differences = [0.3, 0.1, 0.2, -0.05, 0.4, 0.15]
    total = sum(differences)
    flipped = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in product((1, -1), repeat=6)]
    by_hand = 2 * sum(value >= total - 1e-12 for value in flipped) / len(flipped)
    assert sign_flips(differences) == pytest.approx(by_hand) and by_hand == 4 / 64
    assert sign_flips([0.1] * 6) == pytest.approx(2 / 64) and sign_flips([0.1] * 5) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None]) == [0.02, None]  # a test without a p yet has its place in the family
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_never_smaller_than_p_or_bonferroni(p_values: list[float]) -> None:
    found = holm(p_values)
    for p, corrected in zip(p_values, found, strict=True):
        assert p <= corrected <= min(1, p * len(p_values)) + 1e-12
    pairs = sorted(zip(p_values, found, strict=True))
    assert all(early[1] <= late[1] for early, late in pairwise(pairs))


def test_ranks_share_ties_and_separation_counts_them_half() -> None:
    assert ranks([0.9, 0.5, 0.9, 0.1]) == [1.5, 3.0, 1.5, 4.0]
    found = separation([1, 2], [2, 3])
    assert found is not None and found.mean == (1 + 1 + 0.5 + 1) / 4 and separation([], [1]) is None


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_the_interval_of_an_auroc_ends_where_newcombe_s_score_is_z(m: int, n: int, data: st.DataObject) -> None:
    clean = data.draw(st.lists(st.integers(0, 6), min_size=m, max_size=m))
    other = data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    found = separation(clean, other)
    assert found is not None and found.low is not None and found.high is not None
    for bound in {found.low, found.high} - {0.0, 1.0}:
        first, second = bound / (2 - bound), 2 * bound**2 / (1 + bound)  # Hanley and McNeil's two probabilities
        spread = bound * (1 - bound) + ((m + n) / 2 - 1) * (first + second - 2 * bound**2)
        assert (found.mean - bound) ** 2 * m * n == pytest.approx(1.959964**2 * spread, rel=1e-4)
    assert found.low < found.high and found.low <= found.mean <= found.high
    turned = separation(other, clean)
    assert turned is not None and turned.low == pytest.approx(1 - found.high, abs=1e-6)
    assert separation([0] * 5, [1] * 5)[1:3] == pytest.approx((0.643, 1.0), abs=1e-3)  # type: ignore[index]


def test_sign_flips_test_symmetry_and_not_the_mean(coverage: ModuleType) -> None:
    """Samples of 300, of mean 0: standard errors 0.03 and 0.01. Six gains of six are marked, and come with chance 0.9^6."""
    symmetric, _, asymmetric, _ = coverage.DIFFERENCES.values()
    assert coverage.marked(asymmetric, 6, 300) == pytest.approx(0.9**6, abs=0.09)
    assert coverage.marked(symmetric, 6, 300) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(("tests", "pairs"), [(1, statistics.FEWEST_PAIRS), (2, 7), (8, 9), (20, 10), (249, 14), (250, None)])
def test_the_fewest_pairs_that_can_decide_are_those_of_the_test_itself(tests: int, pairs: int | None) -> None:
    assert fewest_pairs(tests) == pairs
    alike = [[0.1] * n for n in ([14] if pairs is None else [pairs, max(pairs - 1, 1)])]  # nothing can be clearer
    least = [sign_flips(differences) for differences in alike]
    corrected = [holm([p] * tests)[0] for p in least]
    marks = [p is not None and p < SIGNIFICANT for p in corrected]
    assert marks == ([False] if pairs is None else [True, False])
