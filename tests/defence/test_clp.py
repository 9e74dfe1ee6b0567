"""Channel Lipschitzness against singular values of one kernel at a time, and the pairs that it is defined for."""

from __future__ import annotations

import copy

import numpy
import pytest
import torch
from torch import Tensor, nn

from testbed.api import Invalid, Unsupported
from testbed.defence.clp import CLP, outstanding
from testbed.model.preact_resnet18 import PreActResNet18
from testbed.model.resnet18 import ResNet18
from testbed.model.resnet20 import ResNet20
from testbed.model.small_cnn import SmallCNN
from testbed.model.vgg19_bn import VGG19BN
from testbed.numerics.normalised_convolution import Pair, lipschitz_bounds, pairs
from tests.defence.small_images import RESOURCES, TEXTS, TRANSFORMER, images, trained, untrained


@pytest.mark.parametrize(
    ("network", "norms", "found"),
    [(SmallCNN, 4, 4), (ResNet18, 20, 20), (ResNet20, 19, 19), (VGG19BN, 16, 16), (PreActResNet18, 17, 9)],
)
def test_a_pair_is_a_normalisation_of_one_convolutions_output(network: type[nn.Module], norms: int, found: int) -> None:
    with torch.device("meta"):
        net, blank = network(3, 10, 32), torch.zeros(2, 3, 32, 32)  # type: ignore[call-arg]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) == norms
    names = {module: name for name, module in net.named_modules()}
    paired = {names[pair.norm]: names[pair.convolution] for pair in pairs(net, blank)}
    assert len(paired) == found and net.training and not any(module._forward_hooks for module in net.modules())
    if network is PreActResNet18:
        blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
        assert paired == {"layer1.0.bn1": "conv1"} | {f"{block}.bn2": f"{block}.conv1" for block in blocks}
    if network is ResNet18:
        assert paired["layer2.0.downsample.1"] == "layer2.0.downsample.0" and paired["layer2.0.bn2"] == "layer2.0.conv2"


class Traps(nn.Module):
    """Normalisations after a convolution that do not read its output: changed in place, an activation of it, shared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.added, self.active, self.shared, self.honest = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, maps: Tensor) -> Tensor:
        summed = self.conv1(maps)
        summed += maps
        second = self.conv2(self.active(self.conv3(self.added(summed)).relu()))
        return self.shared(self.conv1(maps)) + self.shared(second) + self.honest(second)


def test_what_only_looks_like_a_pair_is_none() -> None:
    net = Traps()
    assert pairs(net, torch.ones(2, 3, 4, 4)) == [Pair(net.conv2, net.honest)]


@pytest.mark.parametrize("groups", [1, 2])
def test_bounds_are_the_largest_singular_value_times_the_scale(groups: int) -> None:
    generator = torch.Generator().manual_seed(groups)
    convolution, norm = nn.Conv2d(4, 6, (3, 2), groups=groups), nn.BatchNorm2d(6)
    norm.weight.data = torch.randn(6, generator=generator)
    norm.running_var = torch.rand(6, generator=generator) * 3
    expected = [
        numpy.linalg.svd(convolution.weight[c].detach().numpy().reshape(4 // groups, 6), compute_uv=False).max()
        * abs(norm.weight[c].item())
        / numpy.sqrt(float(norm.running_var[c]) + norm.eps)
        for c in range(6)
    ]
    assert lipschitz_bounds(Pair(convolution, norm)).numpy() == pytest.approx(numpy.array(expected), rel=1e-5)


def test_the_rule_is_mean_and_deviation_of_the_layer_and_pruned_channels_are_silent() -> None:
    victim = trained(untrained(), images(60, 3))
    with torch.no_grad():
        victim.net.stage3[1].weight[5] = 200.0
    before = copy.deepcopy(victim.state_dict())
    repaired = CLP(3.0).after_training(victim, RESOURCES)
    changed = {name: before[name] != value for name, value in repaired.state_dict().items() if (before[name] != value).any()}
    assert set(changed) == {"net.stage3.1.weight", "net.stage3.1.bias"}
    assert all(places.nonzero().flatten().tolist() == [5] for places in changed.values())
    assert not repaired.net.stage3(torch.rand(2, 8, 4, 4))[:, 5].any()
    assert all(torch.equal(victim.state_dict()[name], value) for name, value in before.items())
    values = numpy.array([1.0, 2, 3, 2, 1, 9])
    assert outstanding(torch.tensor(values), 1.9).tolist() == (values > values.mean() + 1.9 * values.std(ddof=1)).tolist()


def test_what_it_needs() -> None:
    for resources in (TRANSFORMER, TEXTS):
        with pytest.raises(Unsupported, match="needs"):
            CLP(3.0).check(resources)
    with pytest.raises(Invalid, match="strictness=0"):
        CLP(0.0).check(RESOURCES)
