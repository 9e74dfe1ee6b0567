"""Gradient matching: its loss, its bounds, that a step on the poison is a step towards the target, and what it sees."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from testbed.api import AttackerResources, Batch, Invalid, Task, Unsupported, Victim
from testbed.attack.gradient_matching import GradientMatching
from testbed.attack.grey_levels import whole_levels
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


def test_training_on_the_poison_goes_where_training_on_the_target_as_the_wanted_class_would() -> None:
    mine, attack = attacker(), replace(ATTACK, iterations=40, restarts=1, batch_size=64)
    poison, wanted, model = attack.poison(mine), torch.tensor([wanted_of(mine)]), trained(surrogate(), mine.train)
    clean, target = mine.train[poison.indices], mine.target.inputs.float()
    with evaluating(model):
        aim = gradient_of(model, target, wanted)
        gaps = [mismatch(gradient_of(model, one.inputs.float(), one.labels), aim).item() for one in (clean, poison.batch)]
        assert gaps[1] < gaps[0] / 2 < 1, gaps
        before, slope = cross_entropy(model(target), wanted), gradient_of(model, poison.batch.inputs, poison.batch.labels)
        with torch.no_grad():
            for parameter, part in zip(model.parameters(), slope, strict=True):
                parameter.sub_(part, alpha=1e-3)
        assert cross_entropy(model(target), wanted) < before


def test_the_target_with_the_wanted_label_is_what_is_aimed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Batch] = []
    monkeypatch.setattr(GradientMatching, "crafted", lambda self, rows, aim, *others: given.append(aim))
    mine = attacker()
    ATTACK.poison(mine)
    assert torch.equal(given[0].inputs, mine.target.inputs) and given[0].labels.tolist() == [wanted_of(mine)]


def test_the_start_that_ends_nearest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[tuple[float, torch.Tensor]] = []

    def searched(self: GradientMatching, search: Search, *facts: Any) -> float:
        ends.append((once(self, search, *facts), search.changed))
        return ends[-1][0]

    once = GradientMatching._searched
    monkeypatch.setattr(GradientMatching, "_searched", searched)
    poison = replace(ATTACK, restarts=3).poison(attacker())
    assert len({gap for gap, _ in ends}) == 3
    assert torch.equal(poison.batch.inputs, min(ends, key=lambda one: one[0])[1])


def test_steps_become_a_tenth_after_three_five_and_seven_eighths() -> None:
    model, images = surrogate().eval(), rows(4).inputs
    search = Search(images, torch.zeros(4).long(), Matching(16, 8, 0.1, 4), generator=torch.Generator().manual_seed(0))
    met = []
    for _ in range(8):
        search.run(model, gradient_of(model, images.float(), torch.ones(4).long()), range(1))
        met.append(search.adam.param_groups[0]["lr"])
    assert met == pytest.approx([1.6] * 3 + [0.16] * 2 + [0.016] * 2 + [0.0016])


def test_rows_are_moved_as_the_victim_moves_them_only_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[bool] = []

    def mirrored(self: ImageVictim, images: torch.Tensor) -> torch.Tensor:
        moved.append(images.requires_grad)  # what is searched for, and not what the surrogate is trained on
        return images.flip(-1)

    monkeypatch.setattr(ImageVictim, "augmented", mirrored)
    ways = {}
    for augment in (False, True):
        moved.clear()
        ways[augment] = replace(ATTACK, restarts=1, augment=augment).poison(attacker()).batch.inputs
        assert sum(moved) == (16 if augment else 0)  # 8 iterations over 2 groups of at most 3 rows
    assert not torch.equal(ways[True], ways[False])


@pytest.mark.parametrize("bound", [1.0, 7.5])
def test_stored_rows_keep_within_a_bound_that_is_no_whole_number(bound: float) -> None:
    mine, attack = attacker(), replace(ATTACK, max_change=bound, rounded=True, iterations=20, step_size=1.0)
    poison = attack.poison(mine)
    change = poison.batch.inputs.int() - mine.train[poison.indices].inputs.int()
    assert poison.batch.inputs.dtype == torch.uint8 and change.abs().max() == int(bound)


def test_whole_levels_by_hand() -> None:
    clean = torch.tensor([10, 10, 10, 10, 250, 3], dtype=torch.uint8)
    changed = torch.tensor([17.5, 2.5, 12.4, 12.6, 255.0, 0.0])
    assert whole_levels(changed, clean, 7.5).tolist() == [17, 3, 12, 13, 255, 0]
    assert whole_levels(changed, clean, 8.0).tolist() == [18, 2, 12, 13, 255, 0]


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
    replace(ATTACK, max_change=0.5).check(attacker())
    with pytest.raises(Invalid, match=r"max_change=0\.5: rounded rows are stored in whole grey levels"):
        replace(ATTACK, max_change=0.5, rounded=True).check(attacker())
