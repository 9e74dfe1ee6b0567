"""Trigger inversion on models with a planted shortcut, and the outlier rule against a reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Invalid, Unsupported
from testbed.detector.neural_cleanse import NeuralCleanse
from testbed.numerics.outliers import anomaly_index
from testbed.numerics.trigger_inversion import CostSchedule, Inversion, frozen, invert_triggers

CLASSES, TARGET = 6, 4
SHORT = Inversion(epochs=12, batch_size=8, learning_rate=0.1, initial_cost=0.01, patience=2, success_threshold=0.9)


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


def test_target_of_a_planted_shortcut_is_flagged_and_its_patch_found(backdoored, reserve, defender):
    found = NeuralCleanse(epochs=60).inspect(backdoored, defender(backdoored, reserve, classes=CLASSES))
    assert not (backdoored(reserve.inputs).argmax(1) == TARGET).any()
    assert found.flagged == (TARGET,)
    assert found.scores.argmax() == TARGET
    assert found.triggers.sizes[TARGET] < 4.6
    corner = found.triggers.masks[TARGET, 0, -2:, -2:].sum()
    assert corner > 0.8 * found.triggers.sizes[TARGET]
    assert found.triggers.success_rates.min() >= 0.99


def test_success_rates_are_those_of_the_patched_images(backdoored, reserve):
    triggers = invert_triggers(backdoored, reserve.inputs, [4, 1], SHORT, generator=torch.Generator().manual_seed(0))
    assert triggers.masks.shape == (2, 1, 12, 12)
    assert triggers.patterns.shape == (2, 3, 12, 12)
    assert triggers.masks.min() >= 0 and triggers.masks.max() <= 1
    assert triggers.patterns.min() >= 0 and triggers.patterns.max() <= 255
    for label, mask, pattern, rate in zip((4, 1), *triggers, strict=True):
        answers = backdoored((1 - mask) * reserve.inputs.float() + mask * pattern).argmax(1)
        assert (answers == label).float().mean().item() == pytest.approx(rate.item())


def test_gradient_steps_are_adam_on_the_published_loss(backdoored, reserve):
    """One class, one batch a pass, cost still zero: the same steps by hand."""
    inversion = Inversion(epochs=3, batch_size=36, learning_rate=0.1, initial_cost=0.01, patience=9, success_threshold=0.999)
    found = invert_triggers(backdoored, reserve.inputs, [1], inversion, generator=torch.Generator().manual_seed(3))
    start = torch.rand(1, 4, 12, 12, generator=torch.Generator().manual_seed(3))[0]
    free = torch.atanh((2 * start - 1).clamp(-1 + 2e-4, 1 - 2e-4)).requires_grad_()
    adam = torch.optim.Adam([free], lr=0.1, betas=(0.5, 0.9))
    for _ in range(3):
        mask, pattern = free[:1].tanh() / 2 + 0.5, 255 * (free[1:].tanh() / 2 + 0.5)
        logits = backdoored((1 - mask) * reserve.inputs.float() + mask * pattern)
        loss = torch.nn.functional.cross_entropy(logits, torch.ones(36, dtype=torch.int64))
        (free.grad,) = torch.autograd.grad(loss, free)
        adam.step()
    torch.testing.assert_close(found.masks[0], (free[:1].tanh() / 2 + 0.5).detach(), atol=1e-4, rtol=0)


@settings(max_examples=5, deadline=None)
@given(at_once=st.integers(1, CLASSES))
def test_classes_do_not_depend_on_which_are_searched_together(at_once, backdoored, reserve):
    together, apart = (
        invert_triggers(
            backdoored, reserve.inputs, range(CLASSES), SHORT, generator=torch.Generator().manual_seed(0), classes_at_once=size
        )
        for size in (None, at_once)
    )
    torch.testing.assert_close(apart.masks, together.masks, atol=1e-3, rtol=0)


def test_the_search_ends_when_no_mask_has_shrunk_for_long(backdoored, reserve):
    inversion = Inversion(epochs=400, batch_size=36, learning_rate=0.1, initial_cost=0.01, patience=3, success_threshold=0.9)
    seen: list[int] = []
    triggers = invert_triggers(
        backdoored,
        reserve.inputs,
        [TARGET, 0],
        inversion,
        generator=torch.Generator().manual_seed(0),
        watch=lambda passes: (seen.append(number) or number for number in passes),
    )
    assert len(seen) < 400
    assert triggers.success_rates.min() >= 0.9
    assert triggers.sizes[0] < triggers.sizes[1]


def test_the_victim_is_left_as_it_was(backdoored, reserve, defender):
    before = backdoored.weights.detach().clone()
    backdoored.train()
    NeuralCleanse(epochs=1).inspect(backdoored, defender(backdoored, reserve, classes=CLASSES))
    with pytest.raises(RuntimeError, match="stop"), frozen(backdoored):
        assert not backdoored.training
        assert not backdoored.weights.requires_grad
        raise RuntimeError("stop")
    assert backdoored.training
    assert backdoored.weights.requires_grad
    assert backdoored.weights.grad is None
    assert torch.equal(backdoored.weights, before)


def test_cost_starts_after_patience_then_doubles_and_falls_by_two_to_the_one_and_a_half():
    schedule, costs = CostSchedule.of(1, 0.001, patience=2), []
    for succeeded in [False, False, False, True, True, True, True, False, True, False, False, False, False]:
        schedule.update(torch.tensor([succeeded]))
        costs.append(schedule.cost.item())
    low = 0.002 / 2**1.5
    expected = [0, 0, 0, 0, 0.001, 0.001, 0.002, 0.002, 0.002, 0.002, low, low, low / 2**1.5]
    assert costs == pytest.approx(expected)
    assert schedule.rose.all() and schedule.fell.all()


values = st.lists(st.floats(0, 1000, width=32), min_size=3, max_size=50)


@settings(deadline=None)
@given(values)
def test_anomaly_index_equals_the_reference_and_is_finite(numbers):
    found = anomaly_index(torch.tensor(numbers))
    below = np.median(numbers) - np.array(numbers)
    scale = 1.4826 * np.median(np.abs(below)) or 1.2533 * np.mean(np.abs(below)) or 1.0
    np.testing.assert_allclose(found.numpy(), below / scale, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(anomaly_index(torch.tensor(numbers), side="high"), -found)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([10.0, 20.0, 30.0, 40.0, 50.0], [20 / 14.826, 10 / 14.826, 0, -10 / 14.826, -20 / 14.826]),
        ([5.0, 5.0, 5.0, 5.0], [0, 0, 0, 0]),
        ([1.0, 5.0, 5.0, 5.0], [4 / 1.2533, 0, 0, 0]),
    ],
)
def test_anomaly_index_by_hand(sizes, expected):
    assert anomaly_index(torch.tensor(sizes)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "patience", "learning_rate", "success_threshold", "index_threshold"])
def test_what_cannot_work_is_refused(name, backdoored, reserve, rows, defender):
    NeuralCleanse().check(defender(backdoored, reserve))
    with pytest.raises(Invalid, match=name):
        NeuralCleanse(**{name: 0}).check(defender(backdoored, reserve))
    with pytest.raises(Invalid, match="reserve"):
        NeuralCleanse().check(defender(backdoored, rows(reserve.inputs[:0])))
    with pytest.raises(Unsupported, match="images"):
        NeuralCleanse().check(defender(backdoored, reserve, kind="text"))
    with pytest.raises(Unsupported, match="3 classes"):
        NeuralCleanse().check(defender(backdoored, reserve, classes=2))
