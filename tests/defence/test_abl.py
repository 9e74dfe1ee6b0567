"""What anti-backdoor learning holds back, isolates, trains on and unlearns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from testbed.api import Invalid, Task, Unsupported
from testbed.defence.abl import AntiBackdoorLearning, HeldBack, row_losses
from testbed.features import all_labels
from testbed.identity import weights_digest
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from tests.defence.small_images import RESOURCES, SGD, TASK, trained, untrained

ABL = AntiBackdoorLearning(0.5, 2, 0.1, 1, SGD)


@pytest.mark.parametrize("gamma", [0.0, 100.0])
def test_below_gamma_the_loss_is_ascended_as_flooding_would(gamma: float) -> None:
    victim, batch = untrained().eval(), RESOURCES.train[torch.arange(8)]
    plain, held = victim.loss(batch), HeldBack(victim, gamma).loss(batch)
    weight = victim.net.linear.weight  # type: ignore[union-attr]
    flooding = (victim.loss(batch) - gamma).abs() + gamma
    ours, theirs = (torch.autograd.grad(loss, weight)[0] for loss in (held, flooding))
    assert torch.allclose(ours, theirs) and held.item() == pytest.approx(plain.item() * (1 if gamma == 0 else -1))


def test_the_rows_learnt_best_are_isolated_and_the_rest_is_trained_on() -> None:
    model = trained(HeldBack(untrained(), 0.5), RESOURCES.train, epochs=2).bare()
    losses = row_losses(model, RESOURCES.train)
    batch = RESOURCES.train[torch.arange(60)]
    assert torch.allclose(losses, cross_entropy(model(batch.inputs), batch.labels, reduction="none").detach(), atol=1e-5)
    rest = ABL.before_training(RESOURCES.train, RESOURCES)
    kept = losses.argsort(stable=True)[6:].sort().values
    assert torch.equal(rest[torch.arange(len(rest))].inputs, RESOURCES.train[kept].inputs)
    assert weights_digest(ABL.during_training(untrained(), RESOURCES)) == weights_digest(model)


def test_unlearning_raises_the_loss_of_what_was_isolated() -> None:
    victim = trained(untrained(), RESOURCES.train, epochs=2)
    isolated = ABL._suspected(RESOURCES.train, RESOURCES)
    before, after = (row_losses(v, RESOURCES.train) for v in (victim, ABL.after_training(victim, RESOURCES)))
    assert int(isolated.sum()) == 6 and after[isolated].mean() > before[isolated].mean()
    assert len(all_labels(ABL.before_training(RESOURCES.train, RESOURCES))) == 54


def test_unlearning_is_a_step_up_the_loss_of_the_isolated_rows_and_of_no_others() -> None:
    victim = ImageVictim(TASK, partial(SmallCNN, width=4), augmentation="none")
    victim.load_state_dict(trained(untrained(), RESOURCES.train).state_dict())
    isolated = RESOURCES.train[ABL._suspected(RESOURCES.train, RESOURCES).nonzero().flatten()]
    slopes = torch.autograd.grad(victim.train().loss(isolated), list(victim.parameters()))
    expected = [weight + 0.1 * slope for weight, slope in zip(victim.parameters(), slopes, strict=True)]
    unlearnt = replace(ABL, optimiser=partial(torch.optim.SGD, lr=0.1)).after_training(victim, RESOURCES)
    torch.testing.assert_close(list(unlearnt.parameters()), expected)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(Unsupported, match="classifier"):
        ABL.check(replace(RESOURCES, task=Task("chat", ())))
    for wrong in ({"gamma": float("nan")}, {"isolated_share": 0.0}, {"isolated_share": 1.0}, {"isolation_epochs": 0}):
        with pytest.raises(Invalid, match=next(iter(wrong))):
            replace(ABL, **wrong).check(RESOURCES)
