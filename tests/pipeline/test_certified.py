"""What is reported of certified radii, against four rows counted by hand."""

from __future__ import annotations

import torch

from testbed.api import Batch, Poison
from testbed.data.memory import MemoryExamples
from testbed.metrics import Answers
from testbed.pipeline.certificate import certified, touched


def answers(correct: list[bool] | None, radius: list[int] | None) -> Answers:
    rows = torch.arange(4)
    right, radii = (None if values is None else torch.tensor(values) for values in (correct, radius))
    return Answers(rows, right, None, rows, radius=radii)


def test_a_row_counts_where_it_is_right_and_its_radius_is_enough() -> None:
    told, n = certified(answers([True, True, True, False], [1, 1, 4, 9]), 4)
    assert told == {
        "certified_accuracy_at_1": 0.75,
        "certified_accuracy_at_poison": 0.25,
        "certified_radius_median": 1,
        "certified_radius_largest": 4,
        "certified_rows_touched": 4,
    }
    assert n == dict.fromkeys(set(told) - {"certified_rows_touched"}, 4)
    assert certified(answers([True, True, True, False], [1, 1, 4, 9]), 5)[0]["certified_accuracy_at_poison"] == 0


def test_wrong_answers_have_no_radius_even_where_no_row_was_touched() -> None:
    told, _ = certified(answers([False] * 4, [0, 2, 4, 9]), 0)
    assert set(told.values()) == {0}


def test_without_a_guarantee_or_right_answers_nothing_is_reported() -> None:
    for clean in (answers([True] * 4, None), answers(None, [1] * 4)):
        assert certified(clean, 4) == ({}, {})


def test_rows_touched_are_two_for_one_replaced_and_one_for_one_added_or_relabelled() -> None:
    clean = MemoryExamples(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    inputs = torch.zeros(3, 1, 2, 2)
    inputs[0, 0, 1, 1] = 255
    indices = torch.tensor([2, 0, 4])  # replaced, relabelled, added
    poison = Poison(indices, Batch(inputs, torch.ones(3, dtype=torch.int64), indices))
    assert touched(poison, clean) == 2 + 1 + 1
    nothing = Poison(indices[:0], Batch(inputs[:0], indices[:0], indices[:0]))
    assert touched(nothing, clean) == 0
