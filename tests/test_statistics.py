"""Intervals against textbook formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.statistics import over_seeds, wilson


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


def test_zero_of_a_hundred_is_not_zero() -> None:
    assert wilson(0.0, 100).high == pytest.approx(0.037, abs=5e-4)
