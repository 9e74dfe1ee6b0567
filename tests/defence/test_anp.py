"""The mask of adversarial neuron pruning against two iterations written out on models whose weights are really changed."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from testbed.api import Batch, Invalid, Unsupported, Victim
from testbed.defence.anp import ANP, ascended
from testbed.defence.channel_mask import channels, drawn_alike, passes, pruned
from testbed.identity import generator
from tests.defence.small_images import RESOURCES, TEXTS, TRANSFORMER, images, trained, untrained

METHOD = ANP(iterations=2, batch_size=15, learning_rate=0.2, budget=0.4, ascent_steps=1, trade_off=0.2, threshold=0.2)


@pytest.fixture(scope="module")
def victim() -> Victim:
    return trained(untrained(), images(60, 3), epochs=2)


def slopes(victim: Victim, batch: Batch, factors: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Tensor]:
    """Slopes of the loss with respect to the factors of weights and of biases, by the chain rule: dL/df = dL/d(f w) w."""
    model = copy.deepcopy(victim).train()
    norms = channels(model).norms
    kept = [(norm.weight.detach().clone(), norm.bias.detach().clone()) for norm in norms]
    for norm, weights, biases in zip(norms, *(factor.split([4, 8, 16]) for factor in factors), strict=True):
        norm.weight.data *= weights
        norm.bias.data *= biases
    with drawn_alike(RESOURCES.seed, "anp", step):
        model.loss(batch).backward()
    of_weights = torch.cat([norm.weight.grad * weight for norm, (weight, _) in zip(norms, kept, strict=True)])
    return of_weights, torch.cat([norm.bias.grad * bias for norm, (_, bias) in zip(norms, kept, strict=True)])


def test_two_iterations_are_those_of_the_paper(victim: Victim) -> None:
    draw = generator(RESOURCES.seed, "anp perturbation")
    batches = next(passes(RESOURCES.reserve, 15, victim.device, generator(RESOURCES.seed, "anp order")))
    mask, velocity, ones = torch.ones(28), torch.zeros(28), torch.ones(28)
    for step, batch in enumerate(batches):
        start = (torch.rand(2, 28, generator=draw) * 2 - 1) * 0.4
        uphill = torch.stack(slopes(victim, batch, (mask + start[0], 1 + start[1]), step))
        worst = torch.clamp(start + 0.4 * torch.sign(uphill), -0.4, 0.4)
        clean, _ = slopes(victim, batch, (mask, ones), step)
        robust, _ = slopes(victim, batch, (mask + worst[0], 1 + worst[1]), step)
        velocity = 0.9 * velocity + 0.2 * clean + 0.8 * robust
        mask = torch.clamp(mask - 0.2 * velocity, 0, 1)
    found = METHOD.mask(victim, RESOURCES)
    assert len(batches) == 2 and (found < 1).sum() >= 3
    torch.testing.assert_close(found, mask, rtol=1e-4, atol=1e-5)


def test_ascent_stays_within_the_budget_and_goes_uphill() -> None:
    found = ascended(lambda moved: (moved * torch.tensor([1.0, -2.0, 0.0])).sum(), torch.tensor([0.3, 0.3, 0.1]), 0.4, 4)
    assert found.tolist() == pytest.approx([0.4, -0.1, 0.1])


def test_pruning_takes_weights_and_leaves_biases(victim: Victim) -> None:
    keep = torch.ones(28, dtype=torch.bool)
    keep[[0, 4, 27]] = False
    repaired = pruned(victim, keep)
    state = victim.state_dict()
    changed = {name: (value != state[name]).nonzero().flatten().tolist() for name, value in repaired.state_dict().items()}
    expected = {"net.stage1.1.weight": [0], "net.stage2.1.weight": [0], "net.stage3.1.weight": [15]}
    assert {name: places for name, places in changed.items() if places} == expected
    assert (repaired.net.stage3[1].weight[15] == 0).all()


def test_the_threshold_decides(victim: Victim) -> None:
    mask = replace(METHOD, iterations=6).mask(victim, RESOURCES)
    threshold = float(mask.sort().values[3:5].mean())
    repaired = replace(METHOD, iterations=6, threshold=threshold).after_training(victim, RESOURCES)
    silent = torch.cat([norm.weight == 0 for norm in channels(repaired).norms])
    assert torch.equal(silent, mask <= threshold) and silent.sum() == 4


def test_what_it_needs() -> None:
    for resources in (TRANSFORMER, TEXTS):
        with pytest.raises(Unsupported, match="batch normalisation"):
            METHOD.check(resources)
    for name, value in (("iterations", 0), ("budget", 0.0), ("trade_off", 1.0), ("threshold", 1.5)):
        with pytest.raises(Invalid, match=f"{name}={value}"):
            replace(METHOD, **{name: value}).check(RESOURCES)
