"""The rate at which alignment degrades, against curves whose answer is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.degradation import area, crossing, half_life, initial_slope, ratio, schedule
from testbed.statistics import kaplan_meier_median

STEPS = [0, 1, 2, 4, 8, 16]


def test_a_half_life_lies_where_the_line_between_two_points_crosses_half_of_the_start() -> None:
    found = half_life([0, 10, 20], [0.9, 0.6, 0.2])
    assert found is not None and found.at == pytest.approx(10 + 10 * (0.6 - 0.45) / (0.6 - 0.2))
    assert found.censored_at is None


def test_a_half_life_that_is_not_reached_is_censored_and_not_dropped() -> None:
    found = half_life([0, 10, 20], [0.9, 0.9, 0.6])
    assert found is not None and found.at is None and found.censored_at == 20


def test_a_model_that_refuses_less_than_half_to_begin_with_is_not_aligned() -> None:
    assert half_life([0, 10], [0.49, 0.1]) is None
    assert half_life([0, 10], [0.5, 0.1]) is not None


def test_the_first_crossing_counts_where_a_curve_recovers() -> None:
    found = half_life([0, 1, 2, 3], [0.8, 0.2, 0.9, 0.1])
    assert found is not None and found.at == pytest.approx((0.8 - 0.4) / 0.6)


def test_an_exponential_decay_has_its_half_life_to_within_the_grid() -> None:
    steps = list(range(0, 60))
    found = half_life(steps, [math.exp(-step * math.log(2) / 13) for step in steps])
    assert found is not None and found.at == pytest.approx(13, abs=0.01)


def test_a_rising_curve_is_crossed_from_below() -> None:
    assert crossing([0, 10], [0.0, 1.0], 0.5, rising=True).at == pytest.approx(5)
    assert crossing([0, 10], [0.7, 1.0], 0.5, rising=True).at == 0
    assert crossing([0, 10], [0.0, 0.4], 0.5, rising=True).censored_at == 10


@pytest.mark.parametrize("places", [[], [0, 0], [1, 0]])
def test_places_must_ascend(places: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        crossing(places, [0.5] * len(places), 0.2)


@given(st.floats(0.01, 1), st.integers(2, 40))
def test_the_area_of_a_level_curve_is_its_height_in_steps_and_in_log_steps(height: float, points: int) -> None:
    steps, values = list(range(points)), [height] * points
    assert area(steps, values) == pytest.approx(height)
    assert area(steps, values, logarithmic=True) == pytest.approx(height)


def test_the_area_in_log_steps_weighs_early_steps_more() -> None:
    falling = [1.0, 0.9, 0.5, 0.2, 0.0, 0.0]
    linear = sum((falling[i] + falling[i + 1]) / 2 * (STEPS[i + 1] - STEPS[i]) for i in range(5)) / 16
    logs = [math.log(1 + step) for step in STEPS]
    logarithmic = sum((falling[i] + falling[i + 1]) / 2 * (logs[i + 1] - logs[i]) for i in range(5)) / logs[-1]
    assert area(STEPS, falling) == pytest.approx(linear)
    assert area(STEPS, falling, logarithmic=True) == pytest.approx(logarithmic) and logarithmic > linear
    assert area([0], [1.0]) is None


def test_the_initial_slope_is_that_of_the_first_steps_alone() -> None:
    assert initial_slope([0, 5, 10, 100], [2.0, 1.0, 0.0, 50.0]) == pytest.approx(-0.2)
    assert initial_slope([0, 50], [2.0, 1.0]) is None


def test_a_ratio_with_a_censored_numerator_is_a_lower_bound() -> None:
    seen, never = crossing([0, 10], [1.0, 0.0], 0.5), crossing([0, 70], [1.0, 0.9], 0.5)
    assert ratio(seen, seen) == (1.0, None)
    assert ratio(never, seen) == (None, pytest.approx(14))
    assert ratio(seen, never) == (None, None) and ratio(None, seen) == (None, None)


@given(st.integers(1, 5000))
def test_a_schedule_begins_at_once_ends_with_the_training_and_widens(last: int) -> None:
    steps = schedule(last)
    assert steps[0] == 0 and steps[-1] == last and list(steps) == sorted(set(steps))
    assert len(steps) <= 12 * (1 + len(str(last)))


def test_a_censored_seed_counts_in_the_median() -> None:
    assert kaplan_meier_median([3.0, 5.0, 9.0], [True, True, True]) == 5.0
    assert kaplan_meier_median([3.0, 5.0, 9.0], [True, True, False]) == 5.0
    assert kaplan_meier_median([3.0, 70.0, 70.0], [True, False, False]) is None
    # by hand: S(2) = 3/4, S(4) = 3/4 * 1/2 = 3/8
    assert kaplan_meier_median([2.0, 3.0, 4.0, 6.0], [True, False, True, True]) == 4.0
