"""Poison as replaced rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Batch, Invalid, Poison
from testbed.data.memory import MemoryExamples
from testbed.data.overlay import Listed, anonymous, differing, joined, poisoned, shows_nothing
from testbed.identity import examples_digest


def clean(n: int) -> MemoryExamples:
    return MemoryExamples(torch.arange(n * 4, dtype=torch.uint8).view(n, 1, 2, 2), torch.arange(n) % 3)


def poison(indices: list[int]) -> Poison:
    rows = torch.tensor(indices, dtype=torch.long)
    return Poison(rows, Batch(torch.full((len(rows), 1, 2, 2), 250, dtype=torch.uint8), torch.full((len(rows),), 9), rows))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 30), data=st.data(), seed=st.integers(0, 5))
def test_every_other_row_is_there_unchanged_and_the_flags_find_the_poison(n: int, data, seed: int) -> None:
    replaced = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n))
    appended = list(range(n, n + data.draw(st.integers(0, 5))))
    mixed = poisoned(clean(n), poison([*replaced, *appended]), seed)
    received = anonymous(mixed.examples)[torch.arange(len(mixed.examples))]
    assert len(mixed.examples) == n + len(appended)
    assert torch.equal(received.labels == 9, mixed.flags) and int(mixed.flags.sum()) == len(replaced) + len(appended)
    for place, source in enumerate(mixed.source.tolist()):
        if not mixed.flags[place]:
            original = clean(n)[torch.tensor([source])]
            assert torch.equal(received.inputs[place], original.inputs[0]) and received.labels[place] == original.labels[0]
    assert bool((mixed.source == torch.arange(n)).all()) if not appended else True  # without appended rows the order stays


def test_appended_rows_are_mixed_in_by_the_seed() -> None:
    places = [tuple(poisoned(clean(50), poison(list(range(50, 60))), seed).positions.tolist()) for seed in range(4)]
    assert len(set(places)) == 4 and tuple(range(50, 60)) not in places


def test_nothing_changed_has_the_digest_of_the_clean_rows() -> None:
    assert examples_digest(anonymous(poisoned(clean(9), poison([]), 0).examples)) == examples_digest(clean(9))
    assert examples_digest(anonymous(poisoned(clean(9), poison([3]), 0).examples)) != examples_digest(clean(9))


def test_float_poison_makes_the_received_rows_float() -> None:
    rows = torch.tensor([1])
    mixed = poisoned(clean(4), Poison(rows, Batch(torch.full((1, 1, 2, 2), 0.4), torch.tensor([0]), rows)), 0)
    received = anonymous(mixed.examples)[torch.arange(4)].inputs
    assert received.dtype == torch.float32 and torch.equal(received[0], clean(4).inputs[0].float())


def test_the_budget_counts_rows_that_really_differ() -> None:
    rows = torch.tensor([0, 1, 2, 4])
    batch = clean(4)[torch.tensor([0, 1, 2])]
    inputs, labels = batch.inputs.clone(), batch.labels.clone()
    inputs[1], labels[2] = 77, 8
    shown = Batch(torch.cat([inputs, inputs[:1]]), torch.cat([labels, labels[:1]]), rows)
    assert differing(clean(4), Poison(rows, shown)).tolist() == [False, True, True, True]


def test_texts_go_the_same_way() -> None:
    texts = Listed(["a", "b", "c"], torch.tensor([0, 1, 0]))
    rows = torch.tensor([1, 3])
    mixed = poisoned(texts, Poison(rows, Batch(["B!", "D!"], torch.tensor([0, 0]), rows)), 3)
    received = anonymous(mixed.examples)[torch.arange(4)]
    assert sorted(received.inputs) == ["B!", "D!", "a", "c"]
    assert [text for text, flag in zip(received.inputs, mixed.flags.tolist(), strict=True) if flag] in (
        ["B!", "D!"],
        ["D!", "B!"],
    )
    assert examples_digest(anonymous(mixed.examples)) == examples_digest(anonymous(mixed.examples))


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_an_exam_shows_nothing_if_no_row_of_it_differs(kind: str) -> None:
    rows, labels = torch.arange(299, -1, -1), torch.zeros(300, dtype=torch.int64)
    pixels = torch.stack([rows % 256, rows // 256], 1).to(torch.uint8).view(300, 1, 1, 2)
    test = MemoryExamples(pixels, labels) if kind == "images" else Listed([f"text {row}" for row in range(300)], labels)
    batch = test[rows]
    assert shows_nothing(test, Poison(rows, Batch(batch.inputs, batch.labels + 1, rows))), "whatever is wanted of them"
    last = batch.inputs.clone() if kind == "images" else list(batch.inputs)
    last[299] = last[0]
    assert not shows_nothing(test, Poison(rows, Batch(last, batch.labels, rows))), "one row in the last part is enough"
    none = torch.arange(0)
    assert not shows_nothing(test, Poison(none, test[none]))


def test_joined_keeps_both() -> None:
    both = joined(clean(3), poison([0, 1]).batch)
    assert both[torch.arange(5)].labels.tolist() == [0, 1, 2, 9, 9]


@pytest.mark.parametrize("indices", [[0, 0], [-1], [5], [4, 6]])
def test_a_poison_that_does_not_fit_is_refused(indices: list[int]) -> None:
    with pytest.raises(Invalid):
        poisoned(clean(4), poison(indices), 0)
