"""IBD-PSC on a network of three normalisations: which are amplified, and what the score is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from testbed.api import ImageTask, Invalid, Unsupported
from testbed.detector.ibd_psc import IbdPsc, normalisations
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.model.vit_small import ViTSmall

CLASSES = 4


@pytest.fixture(scope="module")
def victim():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        victim = ImageVictim(ImageTask("images", ("0", "1", "2", "3"), shape=(1, 12, 12)), SmallCNN)
        for layer in victim.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1, 0.5)
                nn.init.normal_(layer.bias, 0, 0.5)
    return victim


@pytest.fixture(scope="module")
def reserve(victim, rows):
    """Labels are the model's own answers, so that it errs only where it is amplified."""
    images = torch.randint(0, 256, (40, 1, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return rows(images, victim.eval()(images).argmax(1).detach())


def _amplified(victim, count: int):
    model = copy.deepcopy(victim)
    for number in range(4 - count, 4):
        layer = model.net.get_submodule(f"stage{number}")[1]
        layer.weight.data *= 1.5
        layer.bias.data *= 1.5
    return model.eval()


@pytest.mark.parametrize(("models", "error_rate"), [(5, 1e-9), (2, 1e-9), (1, 0.999)])
def test_score_is_the_mean_confidence_of_models_that_err_enough(models, error_rate, victim, reserve, defender):
    wrong = [(_amplified(victim, count)(reserve.inputs).argmax(1) != reserve.labels).double().mean() for count in (1, 2, 3)]
    first = next((count for count, error in enumerate(wrong, start=1) if error > error_rate), 3)
    chosen = range(first, min(first + models, 4))
    expected = torch.stack(
        [_amplified(victim, count)(reserve.inputs).double().softmax(1)[torch.arange(40), reserve.labels] for count in chosen]
    ).mean(0)
    victim.train()
    detector, before = IbdPsc(models=models, error_rate=error_rate), copy.deepcopy(victim.state_dict())
    scores = detector.score(reserve, victim, defender(victim, reserve, classes=CLASSES))
    torch.testing.assert_close(scores, expected.detach(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items()) and victim.training
    assert torch.equal(detector.decide(scores, reserve, victim, defender(victim, reserve)), scores > 0.9)


def test_normalisations_come_in_the_order_in_which_they_run(victim):
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first, self.plain = nn.BatchNorm2d(1), nn.BatchNorm2d(1), nn.BatchNorm2d(1, affine=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.second(self.plain(self.first(images)))

    network = Backwards()
    assert normalisations(network, torch.zeros(1, 1, 2, 2)) == [network.first, network.second]  # type: ignore[arg-type]
    assert normalisations(victim, torch.zeros(1, 1, 12, 12)) == [victim.net.get_submodule(f"stage{n}")[1] for n in (1, 2, 3)]


@pytest.mark.parametrize("parameters", [{"amplification": 0}, {"error_rate": 1}, {"models": 0}, {"threshold": 1}])
def test_what_cannot_work_is_refused(parameters, victim, reserve, rows, defender):
    (name,) = parameters
    IbdPsc().check(defender(victim, reserve))
    with pytest.raises(Invalid, match=name):
        IbdPsc(**parameters).check(defender(victim, reserve))
    with pytest.raises(Unsupported, match="images"):
        IbdPsc().check(defender(victim, reserve, kind="text"))


def test_a_model_without_batch_normalisation_is_unsupported(rows, defender):
    transformer = ImageVictim(ImageTask("images", ("0", "1"), shape=(3, 32, 32)), ViTSmall)
    with pytest.raises(Unsupported, match="batch normalisation"):
        IbdPsc().check(defender(transformer, rows(torch.zeros(4, 3, 32, 32))))
