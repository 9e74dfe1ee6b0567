"""Flipped labels: how many, to what, and that inputs stay as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Invalid, Unsupported
from testbed.attack.label_flips import LabelFlips
from testbed.data.listed import Listed
from testbed.task import Task
from tests.attack.test_backdoor import CLASSES, resources


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(40, 200), rate=st.floats(0.02, 1.0), seed=st.integers(0, 9), pattern=st.sampled_from(["random", "pairwise"])
)
def test_round_of_rate_times_n_labels_are_wrong_and_no_input_is_changed(n: int, rate: float, seed: int, pattern) -> None:
    mine = resources(n, seed)
    poison = LabelFlips(rate, pattern).poison(mine)
    clean = mine.train[poison.indices]
    assert len(poison.indices) == round(rate * n) == len(poison.indices.unique())
    assert torch.equal(poison.batch.inputs, clean.inputs) and (poison.batch.labels != clean.labels).all()
    assert ((poison.batch.labels >= 0) & (poison.batch.labels < CLASSES)).all()
    if pattern == "pairwise":
        assert torch.equal(poison.batch.labels, (clean.labels + 1) % CLASSES)


def test_every_other_class_is_as_likely_and_a_higher_rate_contains_a_lower_one() -> None:
    mine = resources(3000)
    all_of_them, some = LabelFlips(1.0).poison(mine), LabelFlips(0.1).poison(mine)
    steps = (all_of_them.batch.labels - mine.train[all_of_them.indices].labels) % CLASSES
    assert all(abs(int((steps == step).sum()) - 1000) < 110 for step in (1, 2, 3)), "standard deviation 26"
    assert torch.equal(all_of_them.batch.labels[some.indices], some.batch.labels)


def test_texts_keep_their_words_too() -> None:
    mine = replace(
        resources(), task=Task("text", ("bad", "good")), train=Listed(["one", "two"] * 20, torch.tensor([0, 1] * 20))
    )
    LabelFlips(0.5).check(mine)
    poison = LabelFlips(0.5).poison(mine)
    assert poison.batch.inputs == [["one", "two"][index % 2] for index in poison.indices.tolist()]
    assert torch.equal(poison.batch.labels, 1 - poison.indices % 2)
    with pytest.raises(Unsupported):
        LabelFlips(0.5).check(replace(mine, train=Listed(["one", "two"], ["yes", "no"])))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (LabelFlips(1.5), "poison_rate=1.5: must lie between 0 and 1"),
        (LabelFlips(0.001), "poison_rate=0.001: 0.001 x 100 training rows rounds to 0 rows; raise it"),
        (LabelFlips(0.1, "alphabetical"), "pattern=alphabetical: must be one of random, pairwise"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused_in_one_line(attack: LabelFlips, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        attack.check(resources())
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
