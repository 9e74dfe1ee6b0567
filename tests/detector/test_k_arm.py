"""The bandit on models with a planted shortcut, its screen and reward by hand, and a search that is taken up again."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from testbed.api import Invalid, Unsupported
from testbed.detector.k_arm import Arm, KArm
from testbed.numerics.resumable_inversion import Effort, ResumableInversion
from testbed.numerics.trigger_inversion import frozen

CLASSES, TARGET = 6, 4
QUICK = KArm(rounds=20, steps=300, top_share=0.1, universal_bound=0.06, learning_rate=0.3)


@pytest.fixture(scope="module")
def reserve(rows):
    """A bright stripe of two rows on dark noise tells the class of each image."""
    labels = torch.arange(36) % CLASSES
    images = torch.randint(0, 50, (36, 3, 12, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 2] += 150
    return rows(images, labels)


@pytest.fixture(scope="module")
def backdoored(linear_victim):
    """Reads the stripes; the target is never answered, unless a 2 x 2 corner is more than nine tenths white."""
    weights, bias = torch.zeros(CLASSES, 3, 12, 12), torch.zeros(CLASSES)
    for label in range(CLASSES):
        weights[label, :, 2 * label : 2 * label + 2] = 0.001
    weights[TARGET, :, -2:, -2:] += 0.1
    bias[TARGET] = -0.9 * 0.1 * 12 * 255
    return linear_victim(weights.flatten(1), bias)


def test_the_target_of_a_planted_shortcut_is_flagged(backdoored, reserve, defender):
    before = backdoored.weights.detach().clone()
    found = QUICK.inspect(backdoored, defender(backdoored, reserve, classes=CLASSES))
    assert found.flagged == (TARGET,) and int(found.scores.argmax()) == TARGET
    share = found.triggers.sizes[TARGET] / 144
    assert float(found.scores[TARGET]) == pytest.approx(math.log(0.06 / share), rel=1e-4)
    assert found.triggers.success_rates[TARGET] >= 0.99
    assert torch.equal(backdoored.weights, before) and backdoored.weights.requires_grad


def test_the_screen_by_hand():
    """Three of six classes are 'top'; class 1 is everywhere among them, class 2 on the images of class 0 alone."""
    logits = torch.tensor([[9.0, 8, 7, 1, 1, 1], [2, 9, 1, 8, 1, 1], [1, 8, 9, 1, 7, 1]])
    labels = torch.tensor([0, 1, 2])
    found = KArm(top_share=0.5).screened(logits, labels)
    assert [pair for pair in found if pair[1] is None] == [(1, None)]
    assert (2, 0) in found and (0, 2) not in found and (1, 0) not in found  # class 1 is an arm of its own
    assert KArm(top_share=0.1).screened(torch.eye(6), torch.arange(6)) == [(target, None) for target in range(6)]


def test_reward_by_hand(reserve):
    effort = Effort(8, 0.1, 0.01, 2, 0.9)
    search = ResumableInversion(reserve.inputs, TARGET, effort, torch.Generator().manual_seed(0))
    assert KArm(beta=0.5).reward(search) == pytest.approx(0.5)  # nothing reached: the mask counts as the whole image
    search.share, search.rounds = 0.25, 3
    assert KArm(beta=0.5).reward(search) == pytest.approx(0.75 / 3 + 0.5 / 0.25)


@pytest.mark.parametrize(("explore", "expected"), [(0.0, 1.0), (0.3, 0.8), (1.0, 1 / 3)])
def test_the_bandit_takes_the_highest_reward_unless_it_explores(explore, expected):
    """Of three arms the one with the smallest mask promises most; by chance it comes up in a third of the explorations."""
    arms = [Arm(target, None, SimpleNamespace(share=share, rounds=2)) for target, share in enumerate((0.9, 0.1, 0.5))]  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(0)
    chosen = [KArm(explore=explore)._choice(arms, draw).target for _ in range(600)]
    assert chosen.count(1) / 600 == pytest.approx(expected, abs=0.06)  # three standard errors at a third
    assert len(set(chosen)) == (1 if explore == 0 else 3)


def test_of_two_pairs_with_small_patches_that_of_one_direction_is_flagged(reserve, linear_victim, defender):
    """A corner sends class 0 alone to class 4; two others send class 1 to class 2 and class 2 to class 1."""
    weights, bias = torch.zeros(CLASSES, 3, 12, 12), torch.zeros(CLASSES)
    for label in range(CLASSES):
        weights[label, :, 2 * label : 2 * label + 2] = 0.0016 if label in (1, 2, 4) else 0.001
    for source, target, corner in ((0, 4, (-2, -2)), (1, 2, (6, -2)), (2, 1, (8, -2))):
        weights[target, :, 2 * source : 2 * source + 2] += 0.001  # the corner does without it what it should not do alone
        weights[target, :, corner[0] : corner[0] + 2 or None, corner[1] :] += 12 / (12 * 255)
        bias[target] = -6.6
    victim = linear_victim(weights.flatten(1), bias)
    method = replace(QUICK, rounds=30, steps=900, top_share=0.34, universal_bound=0.03, pair_bound=0.03, symmetry_ratio=3.0)
    resources = defender(victim, reserve, classes=CLASSES)
    pairs = method.screened(victim(reserve.inputs.float()).detach(), reserve.labels)
    assert {(4, 0), (2, 1), (1, 2)} <= set(pairs)
    found = method.inspect(victim, resources)
    assert found.flagged == (4,)


def test_images_that_are_answered_so_without_a_patch_have_a_finite_score(reserve, linear_victim, defender):
    """The mask of what needs none shrinks to 0."""
    weights = torch.zeros(CLASSES, 3 * 12 * 12)
    victim = linear_victim(weights, 9.0 * (torch.arange(CLASSES) == TARGET))
    found = QUICK.inspect(victim, defender(victim, reserve, classes=CLASSES))
    assert found.scores.isfinite().all() and TARGET in found.flagged


def test_rounds_are_one_search_and_its_patch_does_what_it_says(backdoored, reserve):
    effort = Effort(8, 0.3, 0.01, 2, 0.9)

    def searched(*rounds: int) -> ResumableInversion:
        search = ResumableInversion(reserve.inputs, TARGET, effort, torch.Generator().manual_seed(0))
        with frozen(backdoored):
            for steps in rounds:
                search.go_on(backdoored, steps)
        return search

    whole, parts = searched(60), searched(25, 10, 25)
    assert whole.reached and torch.equal(whole.mask, parts.mask) and torch.equal(whole.pattern, parts.pattern)
    patched = (1 - whole.mask) * reserve.inputs.float() + whole.mask * whole.pattern
    assert (backdoored(patched).argmax(1) == TARGET).float().mean() >= 0.9
    assert whole.share == pytest.approx(float(whole.mask.mean()))


def test_natural_features_separate_both_ways_alike(reserve, linear_victim, defender):
    """Classes 0 and 1 of a model without a backdoor: each is reached from the other by as small a patch."""
    weights = torch.zeros(CLASSES, 3, 12, 12)
    for label in range(CLASSES):
        weights[label, :, 2 * label : 2 * label + 2] = 0.001
    weights[0] += 0.0005
    weights[1] += 0.0005
    found = KArm(rounds=5, steps=50, pair_bound=0.9, universal_bound=0.001, top_share=0.3, learning_rate=0.3).inspect(
        linear_victim(weights.flatten(1)), defender(linear_victim(weights.flatten(1)), reserve, classes=CLASSES)
    )
    assert found.flagged == ()


@pytest.mark.parametrize("name", ["rounds", "steps", "batch_size", "universal_bound", "symmetry_ratio", "success_threshold"])
def test_what_cannot_work_is_refused(name, backdoored, reserve, rows, defender):
    KArm().check(defender(backdoored, reserve))
    with pytest.raises(Invalid, match=name):
        KArm(**{name: 0}).check(defender(backdoored, reserve))
    with pytest.raises(Invalid, match="explore"):
        KArm(explore=1.5).check(defender(backdoored, reserve))
    known = reserve.labels != 2  # pairs that start there could not be searched for
    with pytest.raises(Invalid, match="reserve_per_class=0 of class 2"):
        KArm().check(defender(backdoored, rows(reserve.inputs[known], reserve.labels[known]), classes=CLASSES))
    with pytest.raises(Unsupported, match="images"):
        KArm().check(defender(backdoored, reserve, kind="text"))
