"""Gradient matching: its loss, its bounds, that a step on the poison is a step towards the target, and what it sees."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from testbed.api import AttackerResources, Invalid, Task, Unsupported, Victim
from testbed.attack.gradient_matching import GradientMatching
from testbed.features import evaluating
from testbed.model.image import ImageVictim
from testbed.model.vit_small import ViTSmall
from testbed.numerics.gradient_matching import Matching, Search, gradient_of, mismatch, target_gradient
from testbed.target import check_trial, target_of
from tests.attack.test_backdoor import BADNETS, TASK, resources, rows
from tests.attack.test_optimised_trigger import surrogate, trained

ATTACK = GradientMatching(
    poison_rate=0.05, max_change=16, iterations=8, restarts=2, step_size=0.1, batch_size=3, augment=True, rounded=False
)


def attacker(seed: int = 0) -> AttackerResources:
    return replace(resources(seed=seed), fresh=surrogate, fit=trained, target=target_of(ATTACK, rows(30, 9), seed))


def wanted_of(mine: AttackerResources) -> int:
    return int(ATTACK.triggered_tests(rows(30, 9), mine)["success"].batch.labels)


def test_mismatch_by_hand() -> None:
    one = (torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]))
    assert mismatch(one, one).item() == pytest.approx(0, abs=1e-6)
    assert mismatch(one, tuple(-part for part in one)).item() == pytest.approx(2)
    assert mismatch(one, (torch.tensor([5.0, 0.0]), torch.tensor([[0.0]]))).item() == pytest.approx(1 - 15 / 25)


def test_a_step_on_the_poison_is_a_step_towards_the_target_within_the_bounds() -> None:
    clean = rows(40)
    model = trained(surrogate(), clean, epochs=15)
    images, labels = clean.inputs[clean.labels == 2][:6], torch.full((6,), 2)
    with evaluating(model):
        aim = clean.inputs[clean.labels == 0][:1].float(), torch.tensor([2])
        wanted = target_gradient(model, *aim, 4)
        search = Search(images, labels, Matching(16, 40, 0.1, 6), generator=torch.Generator().manual_seed(0))
        start = mismatch(gradient_of(model, search.changed, labels), wanted).item()
        end = search.run(model, wanted, range(40))
        assert end < start / 2 and (search.changed - images.float()).abs().max() <= 16 + 1e-4
        assert search.changed.min() >= 0 and search.changed.max() <= 255
        before = cross_entropy(model(aim[0]), aim[1]).item()
        with torch.no_grad():
            step = gradient_of_detached(model, search.changed, labels)
            for parameter, part in zip(model.parameters(), step, strict=True):
                parameter.sub_(part, alpha=1e-3)
        assert cross_entropy(model(aim[0]), aim[1]).item() < before


def gradient_of_detached(model: Victim, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.enable_grad():
        return gradient_of(model, images, labels)


def test_only_rows_of_the_wanted_class_move_and_the_one_target_is_shown_as_it_is() -> None:
    mine = attacker()
    ATTACK.check(mine)
    poison, wanted = ATTACK.poison(mine), wanted_of(mine)
    before = mine.train[poison.indices]
    assert len(poison.indices) == 5 and (before.labels == wanted).all() and torch.equal(poison.batch.labels, before.labels)
    change = poison.batch.inputs - before.inputs.float()
    assert poison.batch.inputs.dtype == torch.float32 and 1 < change.abs().max() <= 16 + 1e-4
    assert replace(ATTACK, rounded=True).poison(mine).batch.inputs.dtype == torch.uint8
    exam = ATTACK.triggered_tests(rows(30, 9), mine)["success"]
    assert torch.equal(exam.batch.inputs, mine.target.inputs) and torch.equal(exam.indices, mine.target.rows)
    assert wanted != int(mine.target.labels)


def test_each_trial_draws_a_target_and_a_class() -> None:
    drawn = {(int(mine.target.rows), wanted_of(mine)) for mine in map(attacker, range(40))}
    assert len(drawn) > 20  # of 30 rows and 3 classes each: 32 are expected, with a standard deviation below 3
    assert target_of(BADNETS, rows(30), 0) is None
    with pytest.raises(Invalid, match=r"trial=1: Backdoor is made for no single target.*say trial=0"):
        check_trial(BADNETS, 1)


def test_attention_has_a_second_derivative_here() -> None:
    fresh = partial(ImageVictim, TASK, partial(ViTSmall, depth=1, width=12, heads=2))
    mine = replace(attacker(), fresh=fresh, fit=lambda victim, examples: victim)
    assert len(replace(ATTACK, iterations=1, restarts=1).poison(mine).indices) == 5


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(Unsupported, match="needs images, not text"):
        ATTACK.check(replace(attacker(), task=Task("text", ("a", "b"))))
    with pytest.raises(Unsupported, match="needs a target row"):
        ATTACK.check(replace(attacker(), target=None))
    with pytest.raises(Invalid, match="needs 80 rows of the wanted class"):
        replace(ATTACK, poison_rate=0.8).check(attacker())
