"""Image victims built from the project's own configurations."""

import copy
import inspect
import pickle
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional
from torchvision import models

from testbed.api import Batch, ImageTask, Invalid, Task
from testbed.model.augmentation import augment
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.model.torchvision import TorchvisionVictim
from testbed.model.vgg19_bn import VGG19BN
from testbed.model.vit_small import ViTSmall

CONFIGURATIONS = Path(__file__).parents[2] / "conf" / "model"
PARAMETERS = {
    "small_cnn": 61_338,
    "resnet20": 269_722,
    "resnet18": 11_173_962,
    "preact_resnet18": 11_172_170,
    "vgg19_bn": 20_040_522,
    "vit_small": 21_342_346,
    "torchvision": 11_181_642,
}
CLASSES = tuple("abcdefghij")
COLOUR = ImageTask("images", CLASSES, (3, 32, 32), (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), "crop_flip")
GREY = ImageTask("images", CLASSES, (1, 28, 28), (0.29,), (0.35,))
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def seeded(build, *arguments, **options):
    """Build a network with initial weights that do not depend on the other tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*arguments, **options)


@cache
def configured(name: str) -> ImageVictim:
    """The victim of one YAML, with random weights, in evaluation mode; never changed by a test."""
    return seeded(instantiate(OmegaConf.load(CONFIGURATIONS / f"{name}.yaml")), COLOUR).eval()


@pytest.fixture
def small() -> ImageVictim:
    return seeded(ImageVictim, COLOUR, SmallCNN)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    assert sum(parameter.numel() for parameter in configured(name).parameters()) == PARAMETERS[name]


def test_parameter_counts_of_small_cnn_for_grey_images():
    assert sum(parameter.numel() for parameter in SmallCNN(1, 10, 28).parameters()) == 24_058


@pytest.mark.parametrize("name", PARAMETERS)
def test_yaml_lists_every_parameter_and_its_default(name):
    configuration = OmegaConf.load(CONFIGURATIONS / f"{name}.yaml")
    for node in [configuration, configuration.get("network", {})]:
        if "_target_" in node:
            signature = inspect.signature(get_class(node._target_)).parameters.values()
            defaults = {p.name: p.default for p in signature if p.default is not p.empty}
            listed = {key: value for key, value in node.items() if key not in ("_target_", "_partial_", "network", "name")}
            assert {key: tuple(value) if value == [] else value for key, value in listed.items()} == defaults


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_head_reads_the_penultimate_features(name):
    victim = configured(name)
    with torch.no_grad():
        logits = victim(IMAGES)
        features = victim.features(IMAGES, "penultimate")
        assert torch.equal(victim.head(features), logits)
        assert victim.layers[-1] == "penultimate"
        assert all(len(victim.features(IMAGES[:1], layer)) == 1 for layer in victim.layers)
        assert bool(victim.groups) == (name != "vit_small")
        for module, weight, dim in victim.groups.get("penultimate", ()):
            silenced = copy.deepcopy(module)
            getattr(silenced, weight).select(dim, 5).zero_()
            without = features.index_fill(1, torch.tensor([5]), 0)
            assert torch.allclose(silenced(features), module(without), atol=1e-6)
    assert logits.shape == (4, 10)


@pytest.mark.parametrize("name", PARAMETERS)
def test_copies_pickles_and_channels_last_give_the_same_logits(name):
    victim = configured(name)
    with torch.no_grad():
        logits = victim(IMAGES)
        assert torch.equal(pickle.loads(pickle.dumps(victim))(IMAGES), logits)
        changed = copy.deepcopy(victim).to(memory_format=torch.channels_last)
        assert torch.allclose(changed(IMAGES.to(memory_format=torch.channels_last)), logits, atol=1e-3, rtol=1e-3)
        assert changed.layers == victim.layers


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_kept_under_its_own_name(name):
    victim = configured(name)
    assert all(hasattr(victim, parameter) for parameter in inspect.signature(type(victim)).parameters)
    assert all(key.startswith("net.") for key in victim.state_dict())


def test_forward_normalises_stored_and_float_images_alike(small):
    small.eval()
    mean, std = (torch.tensor(numbers).reshape(3, 1, 1) for numbers in (COLOUR.mean, COLOUR.std))
    inputs = IMAGES.float().requires_grad_()
    logits = small(inputs)
    assert torch.allclose(logits, small.net((IMAGES / 255 - mean) / std), atol=1e-6)
    assert torch.equal(logits, small(IMAGES))
    logits[:, 0].sum().backward()
    assert inputs.grad.abs().sum() > 0


def test_loss_augments_only_while_training(small):
    batch = Batch(IMAGES, LABELS, torch.arange(4))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        found = small.loss(batch)
        torch.manual_seed(3)
        assert torch.equal(found, functional.cross_entropy(small(augment(IMAGES, "crop_flip")), LABELS))
        small.eval()
        assert torch.equal(small.loss(batch), functional.cross_entropy(small(IMAGES), LABELS))
        assert small.augmented(IMAGES) is IMAGES


def test_own_statistics_and_augmentation_come_before_the_tasks():
    victim = seeded(ImageVictim, COLOUR, SmallCNN, mean=[0.5], std=[0.2], augmentation="none")
    assert torch.allclose(victim(IMAGES), victim.net((IMAGES / 255 - 0.5) / 0.2), atol=1e-5)
    assert victim.augmented(IMAGES) is IMAGES


def test_features_are_those_before_a_later_layer_changes_them():
    # torchvision's ResNet applies its ReLU to the result of bn1 in place.
    assert configured("resnet18").features(IMAGES, "bn1").min() < 0


@settings(deadline=None, max_examples=25)
@given(side=st.integers(1, 40), depth=st.none() | st.integers(1, 6), width=st.integers(1, 5), channels=st.integers(1, 4))
def test_small_cnn_reads_every_size_it_accepts(side, depth, width, channels):
    task = ImageTask("images", ("a", "b"), (channels, side, side))
    if depth is not None and side >> (depth - 1) == 0:
        with pytest.raises(Invalid, match=r"network\.depth"):
            ImageVictim(task, partial(SmallCNN, width=width, depth=depth))
    else:
        victim = ImageVictim(task, partial(SmallCNN, width=width, depth=depth)).eval()
        assert victim(torch.zeros(2, channels, side, side, dtype=torch.uint8)).shape == (2, 2)


class Flat(nn.Module):
    """A head that reads every pixel of every channel: no column is a channel."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 2, 3, padding=1)
        self.linear = nn.Linear(2 * image_size**2, num_classes)

    def forward(self, images):
        return self.linear(self.convolution(images).flatten(1))


def test_a_head_on_pixels_has_no_channels():
    victim = seeded(ImageVictim, COLOUR, Flat)
    assert victim.layers == ("convolution", "penultimate")
    assert victim.groups == {}


def test_torchvision_reads_grey_images_and_puts_its_stages_one_level_up():
    victim = seeded(TorchvisionVictim, GREY, "mobilenet_v2").eval()
    assert victim(IMAGES[:, :1, :28, :28]).shape == (4, 10)
    assert victim.layers[:2] == ("features.0", "features.1")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageVictim(Task("text", ("a", "b")), SmallCNN), "network: the model reads images, and the data are text"),
        (lambda: ImageVictim(COLOUR, SmallCNN, augmentation="crop_flop"), "did you mean crop_flip"),
        (lambda: ImageVictim(COLOUR, SmallCNN, mean=(0.5, 0.5)), "mean=.*3 channels"),
        (lambda: ImageVictim(COLOUR, SmallCNN, mean=0.5), "mean=0.5: it is a list"),
        (lambda: ImageVictim(COLOUR, SmallCNN, mean=("half",)), "mean=.*list of numbers"),
        (lambda: ImageVictim(COLOUR, SmallCNN, weights_allow="linear."), "weights_allow=linear.: it is a list"),
        (lambda: ImageVictim(COLOUR, SmallCNN, mean=(127.0,)), "mean=.*divide by 255"),
        (lambda: ImageVictim(COLOUR, SmallCNN, std=(0.0,)), "std=.*above 0"),
        (lambda: ImageVictim(COLOUR, SmallCNN, std=(float("nan"),)), "std="),
        (lambda: ImageVictim(COLOUR, partial(SmallCNN, width=0)), "network.width=0"),
        (lambda: ImageVictim(COLOUR, lambda *_: nn.Flatten()), "network=Flatten.*linear layer with 10 outputs"),
        (lambda: ImageVictim(COLOUR, lambda c, k, s: Flat(c, k, s + 1)), "network=Flat.*cannot read images of 3x32x32"),
        (lambda: ImageVictim(GREY, VGG19BN), "network=VGG19BN.*need 32 pixels"),
        (lambda: ImageVictim(COLOUR, partial(ViTSmall, patch=5)), "network.patch=5"),
        (lambda: ImageVictim(COLOUR, partial(ViTSmall, heads=5)), "network.heads=5"),
        (lambda: TorchvisionVictim(COLOUR, "resnet81"), "name=resnet81.*did you mean resnet"),
        (lambda: TorchvisionVictim(COLOUR, "alexnet"), "name=alexnet.*cannot read images of 3x32x32"),
        (lambda: TorchvisionVictim(COLOUR, "squeezenet1_1"), "name=squeezenet1_1.*linear layer"),
        (lambda: TorchvisionVictim(GREY, "resnet18", weights="pretrained"), "weights=pretrained.*3 channels"),
        (lambda: configured("small_cnn").features(IMAGES, "stage9"), "layer=stage9"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(build, message):
    with torch.random.fork_rng(), pytest.raises(Invalid, match=message) as refusal:
        build()
    assert "\n" not in str(refusal.value)


def test_vgg_has_the_tensors_of_torchvisions_features():
    with torch.device("meta"):
        theirs = models.vgg19_bn(weights=None).features.state_dict()
    ours = configured("vgg19_bn").net.features.state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tensor.shape for name, tensor in theirs.items()}
