"""Cutting a data set: disjoint, by class, groups whole, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Invalid, Splits, Task
from testbed.data.memory import MemoryExamples
from testbed.data.splits import divide, image_task, integer_labels, stratified


def numbered(labels: list[int], first: int = 0) -> MemoryExamples:
    """Examples whose single pixel says which row they are."""
    pixels = torch.arange(first, first + len(labels)).float().view(-1, 1, 1, 1)
    return MemoryExamples(pixels, torch.tensor(labels, dtype=torch.int64))


def rows(examples: MemoryExamples) -> list[int]:
    return examples.inputs.flatten().long().tolist()


def cut(
    train: list[int], test: list[int], *, source: str = "reserved", validation: int = 1, reserve: int = 2, **more
) -> Splits:
    task = Task("images", tuple(str(label) for label in range(max(train) + 1)))
    counts = {"validation_per_class": validation, "reserve_per_class": reserve, "reserve_source": source}
    return divide("toy", task, numbered(train), numbered(test, first=len(train)), **counts, **more)


@settings(deadline=None)
@given(
    st.lists(st.integers(8, 15), min_size=2, max_size=4),
    st.integers(0, 3),
    st.integers(0, 4),
    st.sampled_from(["reserved", "held_out"]),
    st.integers(0, 3),
)
def test_parts_are_disjoint_stratified_complete_and_repeatable(
    sizes: list[int], validation: int, reserve: int, source: str, seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))].tolist()
    test = labels[::-1]
    splits = cut(labels, test, source=source, validation=validation, reserve=reserve, seed=seed)
    parts = [splits.train, splits.validation, splits.test, splits.reserve]
    assert sorted(row for part in parts for row in rows(part)) == list(range(2 * len(labels)))
    assert splits.validation.labels.bincount(minlength=len(sizes)).tolist() == [validation] * len(sizes)
    assert splits.reserve.labels.bincount(minlength=len(sizes)).tolist() == [reserve] * len(sizes)
    assert all(row < len(labels) for row in rows(splits.train) + rows(splits.validation))
    assert all((row < len(labels)) == (source == "reserved") for row in rows(splits.reserve))
    again = cut(labels, test, source=source, validation=validation, reserve=reserve, seed=seed)
    assert [part.digest for part in parts] == [
        part.digest for part in (again.train, again.validation, again.test, again.reserve)
    ]


def test_another_seed_is_another_split_and_a_larger_reserve_holds_the_smaller() -> None:
    labels = [0, 1] * 40
    splits = cut(labels, labels)
    assert rows(splits.reserve) != rows(cut(labels, labels, seed=1).reserve)
    larger = cut(labels, labels, reserve=9)
    assert set(rows(splits.reserve)) < set(rows(larger.reserve))
    assert rows(splits.validation) == rows(larger.validation)


@settings(deadline=None)
@given(st.data())
def test_groups_are_never_cut(data: st.DataObject) -> None:
    # Groups of up to 4 rows, of which some hold two classes, so many that every part can be filled.
    classes = [[label] for label in (0, 1) for _ in range(10)] + data.draw(st.lists(st.just([0, 1]), max_size=3))
    sizes = data.draw(st.lists(st.integers(2, 4), min_size=len(classes), max_size=len(classes)))
    labels = [kinds[row % len(kinds)] for kinds, size in zip(classes, sizes, strict=True) for row in range(size)]
    groups = torch.repeat_interleave(torch.arange(len(classes)) * 7 - 3, torch.tensor(sizes))
    splits = cut(labels, [0, 1], groups=groups, validation=3, reserve=5)
    parts = [splits.train, splits.validation, splits.reserve]
    owners = [set(groups[rows(part)].tolist()) for part in parts]
    assert sum(map(len, owners)) == len(classes) == len(set.union(*owners))
    assert (splits.validation.labels.bincount() >= 3).all() and (splits.reserve.labels.bincount() >= 5).all()
    assert sorted(row for part in parts for row in rows(part)) == list(range(len(labels)))


@pytest.mark.parametrize(
    ("change", "parameter", "says"),
    [
        ({"reserve": 7}, "reserve_per_class", "class '1' has 6 rows"),
        ({"reserve": 4, "validation": 3}, "validation_per_class", "reserve_per_class 4 \\+ validation_per_class 3"),
        ({"reserve": 5, "validation": 1}, "validation_per_class", "one row left over"),
        ({"reserve": 2, "source": "held_out"}, "reserve_per_class", "class '0' has 1 rows"),
        ({"groups": torch.tensor([*range(8), *[9] * 6])}, "reserve_per_class", "groups that are not cut"),
        ({"reserve": -1}, "reserve_per_class", "0 or more"),
        ({"validation": 2.5}, "validation_per_class", "whole number"),
        ({"source": "elsewhere"}, "reserve_source", "reserved"),
        ({"test": []}, "test", "needs rows"),
        ({"test": [0, 2]}, "test", "labels are 0..1"),
        ({"train": [0] * 20}, "train", "at least two classes"),
        ({"train": [0, 2] * 20}, "train", "no row shows 1"),
    ],
)
def test_what_cannot_be_cut_is_refused(change: dict, parameter: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as caught:
        if "groups" in change:
            change = {**change, "reserve": 1, "validation": 0}
        cut(**{"train": [0] * 8 + [1] * 6, "test": [0, 1], **change})
    assert caught.value.parameter == parameter


def test_a_class_emptied_by_the_groups_of_another_is_refused() -> None:
    labels, groups = torch.tensor([0, 0, 1, 1, 0, 0]), torch.tensor([0, 0, 0, 0, 1, 1])
    with pytest.raises(Invalid):
        stratified(labels, {"part": 1}, ("a", "b"), groups=groups)


def test_labels_become_int64_or_are_refused_by_name() -> None:
    for kind in (np.int32, np.uint8, np.int64):
        assert integer_labels(np.array([0, 2, 1], dtype=kind), "train").dtype == torch.int64
    multiple = np.eye(3, dtype=np.int64)
    for wrong in (
        np.array([0.0, 1.0]),
        np.array(["cat"]),
        np.array([True]),
        multiple,
        np.array([-1, 0]),
        np.array(["1"], object),
    ):
        with pytest.raises(Invalid) as caught:
            integer_labels(wrong, "train")
        assert caught.value.parameter == "train"


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"mean": (127.0,)}, "mean"),
        ({"std": (0.0,)}, "std"),
        ({"augmentation": "flip"}, "augmentation"),
        ({"classes": ("a", "a")}, "classes"),
    ],
)
def test_a_task_that_cannot_be_is_refused(change: dict, parameter: str) -> None:
    with pytest.raises(Invalid) as caught:
        image_task(
            **{"classes": ("a", "b"), "shape": (3, 8, 8), "mean": [0.5], "std": [0.25], "augmentation": "none", **change}
        )
    assert caught.value.parameter == parameter


def test_a_seen_reserve_is_drawn_like_a_reserved_one_and_is_trained_on_too() -> None:
    labels = [0, 1] * 6
    seen, reserved = cut(labels, labels, source="seen"), cut(labels, labels)
    assert rows(seen.reserve) == rows(reserved.reserve)
    assert sorted(rows(seen.train)) == sorted(rows(reserved.train) + rows(reserved.reserve))
    assert rows(seen.validation) == rows(reserved.validation)
