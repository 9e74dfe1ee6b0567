"""Rows that are poisoned in the batch, and the fixed rows of the variant that cannot do so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from testbed.api import Invalid, Unsupported
from testbed.attack.batchwise import BatchwiseTraining
from testbed.attack.label import AllToOne
from testbed.attack.noisy_cover import NoisyCover
from testbed.attack.wanet import WaNet
from testbed.identity import derive, weights_digest
from testbed.task import Task
from testbed.trigger.noisy_warp import NoisyWarp
from testbed.trigger.warp import Warp
from tests.attack.test_backdoor import BADNETS, resources, rows

WANET = WaNet(Warp(2.0), AllToOne(), target_label=1, batch_share=0.1, noise_trigger=NoisyWarp(2.0), cross_ratio=2.0)


def test_a_tenth_of_a_batch_is_warped_toward_the_target_and_a_fifth_warped_with_noise_keeps_its_label() -> None:
    batch = resources().train[torch.arange(100)]
    shown = WANET.shown(batch, 4, seed=7)
    touched = (shown.inputs != batch.inputs).flatten(1).any(1)
    warped = (shown.inputs == WANET.trigger(batch.inputs, batch.rows, 0)).flatten(1).all(1) & touched
    assert int(warped.sum()) == 10 and (shown.labels[warped] == 1).all() and int(touched.sum()) == 30
    assert torch.equal(shown.labels[~warped], batch.labels[~warped])


def test_other_batches_have_other_rows_and_the_share_is_met_on_average() -> None:
    train = resources(400).train
    counts, chosen = [], []
    for start in range(0, 400, 4):
        batch = train[torch.arange(start, start + 4)]
        clean = replace(WANET, cross_ratio=0.0).shown(batch, 4, seed=0)
        counts.append(int((clean.inputs != batch.inputs).flatten(1).any(1).sum()))
    assert set(counts) == {0, 1} and 25 <= sum(counts) <= 55, "0.4 rows of 4: 40 of 100 batches, standard deviation 5"
    for order in (torch.arange(100), torch.arange(100).flip(0)):
        shown = WANET.shown(train[order], 4, seed=0)
        chosen.append(set(order[(shown.inputs != train[order].inputs).flatten(1).any(1)].tolist()))
    assert chosen[0] != chosen[1], "the same rows in another order are another batch"


def test_the_loss_is_that_of_the_attacker_s_batch_and_the_victim_comes_out_as_it_went_in() -> None:
    mine = resources()
    fresh = mine.fresh()
    wrapped, before = WANET.during_training(fresh, mine), weights_digest(fresh)
    assert isinstance(wrapped, BatchwiseTraining) and WANET.controls_training and wrapped.bare() is fresh
    batch, state = mine.train[torch.arange(50)], torch.get_rng_state()
    expected = fresh.eval().loss(WANET.shown(batch, 4, derive(mine.seed, "batches")))
    assert torch.equal(wrapped.eval().loss(batch), expected) and weights_digest(wrapped.bare()) == before
    assert torch.equal(torch.get_rng_state(), state), "the victim's own augmentation draws as without an attack"


def test_no_row_is_replaced_and_the_noisy_warp_is_a_near_miss() -> None:
    mine, test = resources(), rows(40, seed=5)
    assert len(WANET.poison(mine).indices) == 0
    exams = WANET.triggered_tests(test, mine)
    assert list(exams) == ["success", "noise"] and torch.equal(exams["success"].indices, exams["noise"].indices)
    assert torch.equal(exams["success"].batch.inputs, WANET.trigger(test[exams["success"].indices].inputs, torch.arange(1), 0))
    assert not torch.equal(exams["success"].batch.inputs, exams["noise"].batch.inputs)


def test_fixed_rows_show_the_warp_and_their_cover_the_noisy_warp() -> None:
    attack = NoisyCover(**{**vars(BADNETS), "trigger": Warp(2.0), "cover_rate": 0.2}, cover_trigger=NoisyWarp(2.0))
    mine = resources()
    poison, clean = attack.poison(mine), mine.train[attack.poison(mine).indices]
    warped = Warp(2.0)(clean.inputs, clean.rows, 0)
    same = (poison.batch.inputs == warped).flatten(1).all(1)
    assert poison.cover is not None and int(poison.cover.sum()) == 20 and torch.equal(same, ~poison.cover)
    assert torch.equal(poison.batch.labels[poison.cover], clean.labels[poison.cover]) and not attack.controls_training
    assert torch.equal(replace(attack, append=True).poison(mine).batch.inputs, poison.batch.inputs)
    exams, test = attack.triggered_tests(rows(40, seed=5), mine), rows(40, seed=5)
    assert list(exams) == ["success", "noise"] and torch.equal(exams["noise"].batch.labels, exams["success"].batch.labels)
    assert (exams["noise"].batch.inputs != test[exams["noise"].indices].inputs).flatten(1).any(1).all()
    with pytest.raises(Invalid, match=r"^after_augmentation=True: cover is stamped beforehand"):
        replace(attack, after_augmentation=True).check(mine)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_share": 0.0}, "batch_share=0.0: must lie between 0 and 1, both excluded; say attack=none"),
        ({"cross_ratio": -1.0}, "cross_ratio=-1.0: must be at least 0"),
        ({"cross_ratio": 10.0}, "cross_ratio=10.0: with batch_share=0.1 more than the whole batch would be warped; at most 9"),
        ({"target_label": 4}, "target_label=4: the classes are 0 to 3"),
        ({"noise_trigger": NoisyWarp(0.0)}, "trigger.strength=0.0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        replace(WANET, **change).check(resources())
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_texts_cannot_be_warped() -> None:
    with pytest.raises(Unsupported):
        WANET.check(replace(resources(), task=Task("text", tuple("abcd"))))
