"""Narcissus: where the change points, which rows show it, and how it is magnified."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from testbed.api import Invalid
from testbed.attack.narcissus import Narcissus
from testbed.attack.universal_trigger import Perturbation, shown_change
from tests.attack.test_backdoor import rows
from tests.attack.test_optimised_trigger import attacker

ATTACK = Narcissus(
    poison_rate=0.05, target_label=1, max_change=16, magnification=3.0, rounds=30, step_size=1.275, batch_size=16
)


def test_a_few_rows_of_the_target_class_show_one_bounded_change_and_keep_their_label() -> None:
    mine = attacker()
    poison = ATTACK.poison(mine)
    clean = mine.train[poison.indices]
    change = shown_change(clean.inputs, poison.batch.inputs)
    assert len(poison.indices) == 5 and (clean.labels == 1).all() and (poison.batch.labels == 1).all()
    assert poison.batch.inputs.dtype == torch.uint8 and 0 < change.abs().max() <= 16
    assert torch.equal(poison.batch.inputs.float(), (clean.inputs.float() + change).clamp(0, 255))
    assert torch.equal(ATTACK.poison(attacker()).batch.inputs, poison.batch.inputs)


def test_the_change_points_into_the_target_class() -> None:
    mine = attacker()
    surrogate = mine.fit(mine.fresh(), mine.train)
    own = mine.train[(mine.train.labels == 1).nonzero().flatten()]
    crafted = ATTACK._crafted(mine)
    before, after = (cross_entropy(surrogate((own.inputs + change).clamp(0, 255)), own.labels) for change in (0, crafted))
    assert after < before and crafted.abs().max() <= 16 and torch.equal(crafted, crafted.round())


def test_the_change_is_crafted_on_rows_of_the_target_class_alone() -> None:
    mine, met = attacker(), list[torch.Tensor]()
    victim = mine.fresh()
    victim.register_forward_pre_hook(lambda _, given: met.append(given[0].detach()))
    replace(ATTACK, rounds=5)._crafted(replace(mine, fit=lambda untrained, examples: victim))
    shown, known = torch.cat(met).flatten(1), mine.train.inputs.flatten(1).float()
    gaps = (shown[:, None] - known).abs().amax(2)  # a row and the same row changed; others of noise are far from it
    assert len(shown) == 5 * 16 and (gaps.min(1).values <= 16).all()
    assert (mine.train.labels[gaps.argmin(1)] == 1).all()


def test_other_classes_are_shown_the_change_magnified() -> None:
    mine, test = attacker(), rows(40, seed=5)
    poison = ATTACK.poison(mine)
    change = shown_change(mine.train[poison.indices].inputs, poison.batch.inputs)
    exam = ATTACK.triggered_tests(test, replace(mine, fit=None, poison=poison))["success"]  # type: ignore[arg-type]
    expected = (test[exam.indices].inputs.float() + 3 * change).clamp(0, 255)
    assert torch.equal(exam.batch.inputs.float(), expected) and (test.labels[exam.indices] != 1).all()


def test_a_magnification_that_is_no_whole_number_shows_the_nearest_grey_level() -> None:
    images = torch.tensor([[[[10, 254, 1]]]], dtype=torch.uint8)
    change = torch.tensor([[[2.75, 2.75, -2.75]]])
    assert Perturbation(change)(images, torch.arange(1), 0).tolist() == [[[[13, 255, 0]]]]
    assert Perturbation(change)(images.float(), torch.arange(1), 0).tolist() == [[[[12.75, 255, 0]]]]
    mine, test, attack = attacker(), rows(40, seed=5), replace(ATTACK, magnification=2.5)
    poison = attack.poison(mine)
    change = shown_change(mine.train[poison.indices].inputs, poison.batch.inputs)
    exam = attack.triggered_tests(test, replace(mine, poison=poison))["success"]
    expected = (test[exam.indices].inputs.float() + 2.5 * change).clamp(0, 255).round()
    assert (2.5 * change % 1 > 0).any() and torch.equal(exam.batch.inputs.float(), expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"poison_rate": 0.0}, "poison_rate=0.0: the trigger is what the poisoned rows show; say attack=none"),
        ({"max_change": 0}, "max_change=0: must be a whole number of grey levels"),
        ({"rounds": 0}, "rounds=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"magnification": 0.0}, "magnification=0.0: must be above 0"),
        ({"step_size": float("nan")}, "step_size=nan: must be above 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change: dict[str, float], said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        replace(ATTACK, **change).check(attacker())  # type: ignore[arg-type]
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
