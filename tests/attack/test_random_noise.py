"""The control: BadNets' rows, noise instead of a patch, true labels."""

from __future__ import annotations

import pytest
import torch

from testbed.api import Invalid
from testbed.attack.random_noise import Noise, RandomNoise
from tests.attack.test_backdoor import BADNETS, resources, rows

CONTROL = RandomNoise(poison_rate=0.1, target_label=1, max_change=16)


def test_it_changes_the_rows_that_badnets_changes_and_keeps_their_labels() -> None:
    mine = resources()
    poison = CONTROL.poison(mine)
    clean = mine.train[poison.indices]
    change = poison.batch.inputs.int() - clean.inputs.int()
    assert torch.equal(poison.indices, BADNETS.poison(mine).indices) and torch.equal(poison.batch.labels, clean.labels)
    assert 0 < change.abs().max() <= 16 and (change[0] != change[1]).any() and poison.batch.inputs.dtype == torch.uint8


def test_all_changes_within_the_bound_are_as_likely() -> None:
    change = Noise(2)(torch.full((50, 1, 20, 20), 100, dtype=torch.uint8), torch.arange(50), 0).int() - 100
    counts = torch.bincount(change.flatten() + 2)
    assert len(counts) == 5 and ((counts - 4000).abs() < 280).all(), "of 20,000 pixels each a fifth, standard deviation 57"


def test_the_exam_asks_noisy_rows_for_the_target() -> None:
    test = rows(40, seed=5)
    exam = CONTROL.triggered_tests(test, resources())["success"]
    assert (test.labels[exam.indices] != 1).all() and (exam.batch.labels == 1).all()
    assert (exam.batch.inputs != test[exam.indices].inputs).flatten(1).any(1).all()


@pytest.mark.parametrize("bound", [0, 256])
def test_a_bound_that_is_none_is_refused(bound: int) -> None:
    with pytest.raises(Invalid, match=f"^max_change={bound}: must be a whole number of grey levels, from 1 to 255"):
        RandomNoise(0.1, 1, bound).check(resources())
