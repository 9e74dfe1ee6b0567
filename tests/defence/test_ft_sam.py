"""Adaptive sharpness-aware steps against ones written out on a model whose weights are really moved."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

from testbed.api import Batch, Invalid, Unsupported, Victim
from testbed.defence.ft_sam import FTSAM, ascent, sharpness_aware_loss, smoothed
from tests.defence.small_images import RESOURCES, SGD, TEXTS, TRANSFORMER, images, trained, untrained

METHOD = FTSAM(epochs=1, radius=2.0, label_smoothing=0.1, optimiser=SGD)


@pytest.fixture(scope="module")
def victim() -> Victim:
    return trained(untrained(), images(60, 3), epochs=2)


def reference_step(victim: Victim, batch: Batch) -> dict[str, Any]:
    """The state after one step: weights moved by e and back, running statistics of the pass before that alone."""
    model = copy.deepcopy(victim).train()
    optimiser = SGD(model.parameters())
    before = [weight.detach().clone() for weight in model.parameters()]

    def slopes() -> list[torch.Tensor]:
        torch.manual_seed(5)
        pixels = model.augmented(batch.inputs)
        logits = model(pixels)
        return list(
            torch.autograd.grad(functional.cross_entropy(logits, batch.labels, label_smoothing=0.1), model.parameters())
        )

    first = slopes()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    norm = sum(((weight * slope) ** 2).sum() for weight, slope in zip(before, first, strict=True)).sqrt()
    with torch.no_grad():
        for weight, old, slope in zip(model.parameters(), before, first, strict=True):
            weight.add_(2.0 * old.abs() ** 2 * slope / norm)
    second = slopes()
    for weight, old, slope in zip(model.parameters(), before, second, strict=True):
        weight.data, weight.grad = old, slope
    optimiser.step()
    return {**dict(model.named_parameters()), **statistics}


def test_a_step_in_training_is_the_one_written_out(victim: Victim) -> None:
    """Through Lightning, which is told a seed for augmentation: so the step is compared on the loss that it is given."""
    model, batch = copy.deepcopy(victim).train(), RESOURCES.reserve[torch.arange(16)]
    optimiser = SGD(model.parameters())
    with torch.random.fork_rng():
        expected = reference_step(victim, batch)
        torch.manual_seed(5)
        loss = sharpness_aware_loss(model, batch, smooth=partial(smoothed, classes=3, amount=0.1), radius=2.0)
        loss.backward()
    optimiser.step()
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_training_takes_those_steps_and_leaves_what_it_was_given(victim: Victim) -> None:
    before = copy.deepcopy(victim.state_dict())
    loss = partial(sharpness_aware_loss, smooth=partial(smoothed, classes=3, amount=0.1), radius=2.0)
    expected = trained(victim, RESOURCES.reserve, loss=loss).state_dict()
    tuned = METHOD.after_training(victim, RESOURCES).state_dict()
    assert all(torch.equal(tuned[name], value) for name, value in expected.items())
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in before.items())
    plain = trained(victim, RESOURCES.reserve).state_dict()
    assert not torch.equal(tuned["net.linear.weight"], plain["net.linear.weight"])


def test_ascent_is_the_steepest_point_of_its_neighbourhood() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(5, generator=generator) for name in "ab"}
    slopes = {name: torch.randn(5, generator=generator) for name in "ab"}
    found, whole = ascent(weights, slopes, 0.5), torch.cat
    w, g, e = (whole([one[name] for name in "ab"]) for one in (weights, slopes, found))
    assert (e / w.abs()).norm().item() == pytest.approx(0.5, rel=1e-5)
    others = torch.randn(200, 10, generator=generator)
    others = 0.5 * functional.normalize(others, dim=1) * w.abs()
    assert (others @ g).max() < e @ g
    assert not ascent(weights, {name: torch.zeros(5) for name in "ab"}, 0.5)["a"].any()


def test_smoothed_labels_give_the_loss_of_label_smoothing() -> None:
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 3, 1, 2, 2, 0])
    shares = smoothed(Batch(None, labels, labels), classes=4, amount=0.1).labels
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert functional.cross_entropy(logits, shares).item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_it_needs() -> None:
    METHOD.check(TRANSFORMER)
    METHOD.check(TEXTS)
    with pytest.raises(Unsupported, match="classifier"):
        METHOD.check(replace(TEXTS, task=replace(TEXTS.task, kind="chat", classes=())))
    for name, value in (("epochs", 0), ("radius", 0.0), ("label_smoothing", 1.0)):
        with pytest.raises(Invalid, match=f"{name}={value}"):
            replace(METHOD, **{name: value}).check(RESOURCES)
