"""Unlearning, recovering and the choice of a threshold against steps written out here."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from testbed.api import Invalid, Unsupported, Victim
from testbed.defence.channel_mask import channels, drawn_alike, passes, pruned
from testbed.defence.rnp import RNP, THRESHOLDS, cut, share_correct
from testbed.features import accuracy
from testbed.identity import generator, weights_digest
from tests.defence.small_images import RESOURCES, TEXTS, TRANSFORMER, images, trained, untrained

METHOD = RNP(20, 0.01, 0.2, 1, 0.2, 0.2, 30, 0.05)


@pytest.fixture(scope="module")
def victim() -> Victim:
    return trained(untrained(), images(90, 3), epochs=6)


def test_unlearning_is_ascent_and_ends_once_accuracy_is_low(victim: Victim) -> None:
    expected = copy.deepcopy(victim).train()
    batch = next(passes(RESOURCES.reserve, 30, victim.device, generator(RESOURCES.seed, "rnp unlearning order")))[0]
    with drawn_alike(RESOURCES.seed, "rnp unlearning", 0):
        slopes = torch.autograd.grad(expected.loss(batch), list(expected.parameters()))
    with torch.no_grad():
        for weight, slope in zip(expected.parameters(), slopes, strict=True):
            weight.add_(0.01 * (slope - 5e-4 * weight))
    once = replace(METHOD, unlearning_epochs=1).unlearned(victim, RESOURCES)
    torch.testing.assert_close(list(once.parameters()), list(expected.parameters()))
    lost = replace(METHOD, unlearning_rate=0.1, unlearning_epochs=100).unlearned(victim, RESOURCES)
    assert accuracy(victim, RESOURCES.reserve) > 0.9 and share_correct(lost, [batch]) <= 0.2 and lost.training


def test_recovering_descends_the_weighted_loss_by_masks(victim: Victim) -> None:
    lost = replace(METHOD, unlearning_epochs=3).unlearned(victim, RESOURCES)
    batch = next(passes(RESOURCES.reserve, 30, victim.device, generator(RESOURCES.seed, "rnp recovering order")))[0]
    reference = copy.deepcopy(lost).train()
    with drawn_alike(RESOURCES.seed, "rnp recovering", 0):
        (0.2 * reference.loss(batch)).backward()
    slope = torch.cat([norm.weight.grad * norm.weight.detach() for norm in channels(reference).norms])
    found = METHOD.recovered(lost, RESOURCES)
    torch.testing.assert_close(found, (1 - 0.2 * slope).clamp(0, 1))
    assert (found < 1).any()


@pytest.mark.parametrize("max_drop", [0.01, 0.2, 0.6])
def test_the_threshold_is_the_largest_that_the_reserve_bears(victim: Victim, max_drop: float) -> None:
    mask = torch.rand(28, generator=torch.Generator().manual_seed(3))
    scores = [accuracy(pruned(victim, mask > threshold), RESOURCES.reserve) for threshold in THRESHOLDS]
    good = [score >= (1 - max_drop) * accuracy(victim, RESOURCES.reserve) for score in scores]
    last = good.index(False) - 1
    assert 0 <= last < len(THRESHOLDS) - 1
    silent = torch.cat([norm.weight == 0 for norm in channels(cut(victim, mask, RESOURCES.reserve, max_drop)).norms])
    assert torch.equal(silent, mask <= THRESHOLDS[last])


def test_masks_recover_the_unlearned_model_and_prune_the_one_that_was_given(victim: Victim) -> None:
    before = weights_digest(victim)
    method = replace(METHOD, unlearning_rate=0.1, unlearning_epochs=100, recovering_epochs=5)
    mask = method.recovered(method.unlearned(victim, RESOURCES), RESOURCES)
    expected = weights_digest(cut(victim, mask, RESOURCES.reserve, method.max_drop))
    assert weights_digest(method.after_training(victim, RESOURCES)) == expected != before == weights_digest(victim)


def test_thresholds_are_those_of_the_authors() -> None:
    expected = [0.05 * step for step in range(19)]  # 0 to .9
    assert list(THRESHOLDS) == pytest.approx(expected)


def test_what_it_needs() -> None:
    for resources in (TRANSFORMER, TEXTS):
        with pytest.raises(Unsupported, match="batch normalisation"):
            METHOD.check(resources)
    for name, value in (("unlearning_epochs", 0), ("recovering_rate", 0.0), ("least_accuracy", 1.0), ("max_drop", 0.0)):
        with pytest.raises(Invalid, match=f"{name}={value}"):
            replace(METHOD, **{name: value}).check(RESOURCES)
