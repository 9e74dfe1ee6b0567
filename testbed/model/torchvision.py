"""Any of torchvision's classifiers by name, from scratch or with torchvision's pretrained weights."""

from __future__ import annotations

import http.client
import json
import pickle
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn
from torchvision import models

from testbed.api import ImageTask, Invalid, Unreadable
from testbed.model.image import ImageVictim
from testbed.words import nearest


class TorchvisionVictim(ImageVictim):
    """The classifier that torchvision calls `name`, with a head for the task's classes; see `ImageVictim` for the rest.

    `weights='pretrained'` takes torchvision's default weights, downloaded once into torch's own hub folder; their head is
    kept only where it has as many classes, and their mean and std hold where none is given.

    Raises:
        Invalid: no such classifier, or one that cannot read these images; or the weights could not be fetched.
    """

    def __init__(
        self,
        task: ImageTask,
        name: str,
        *,
        weights: str | None = None,
        weights_allow: tuple[str, ...] = (),
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        augmentation: str | None = None,
    ) -> None:
        names = models.list_models(module=models)
        if name not in names:
            raise Invalid("name", name, "torchvision has no such classifier", nearest(name, names))
        network = partial(classifier, name=name, pretrained=weights == "pretrained")
        try:
            super().__init__(
                task, network, weights=weights, weights_allow=weights_allow, mean=mean, std=std, augmentation=augmentation
            )
        except Invalid as error:
            if error.parameter != "network":
                raise
            # The user chose a name, not a network; and one of torchvision's that fails is sound, but not for such images.
            kind = type(error) if error.__cause__ is None else Unreadable
            raise kind("name", name, error.limit, error.advice) from error
        self.name = name

    def load(self) -> Mapping[str, str]:
        """Nothing where the network was built with its pretrained weights, but for how they were normalised."""
        if self.weights != "pretrained":
            return super().load()
        transforms = models.get_model_weights(self.network.keywords["name"]).DEFAULT.transforms()
        return {"mean": json.dumps(list(transforms.mean)), "std": json.dumps(list(transforms.std))}


def classifier(in_channels: int, num_classes: int, image_size: int, *, name: str, pretrained: bool) -> nn.Module:
    """torchvision's classifier of that name, with a first convolution for `in_channels` and a head for `num_classes`."""
    if pretrained and in_channels != 3:
        advice = "train from scratch (weights=null) or choose colour images"
        raise Unreadable("weights", "pretrained", f"they read 3 channels, and the images have {in_channels}", advice)
    network = fetched(name, image_size) if pretrained else built(name, image_size, num_classes)
    if pretrained and (head := last(network, nn.Linear)) is not None and head[1].out_features != num_classes:
        replace(network, head[0], nn.Linear(head[1].in_features, num_classes, bias=head[1].bias is not None))
    if in_channels != 3 and (stem := first_convolution(network)) is not None:
        replace(network, stem[0], like(stem[1], in_channels))
    return network


def built(name: str, image_size: int, num_classes: int) -> nn.Module:
    """The classifier with random weights."""
    try:
        return models.get_model(name, weights=None, num_classes=num_classes, **options(name, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        limit = f"it cannot be built for {image_size} pixels ({first_line(error)})"
        raise Unreadable("name", name, limit, "choose another model") from error


def fetched(name: str, image_size: int) -> nn.Module:
    """The classifier with torchvision's default weights, its head as it was."""
    weights = models.get_model_weights(name).DEFAULT
    try:
        # torchvision unpickles without limits; reading the file strictly first refuses one that holds more than tensors.
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return models.get_model(name, weights=weights, progress=False, **options(name, image_size))
    except (OSError, http.client.HTTPException, pickle.UnpicklingError, RuntimeError, ValueError, AssertionError) as error:
        limit = f"torchvision's weights of {name} could not be used ({first_line(error)})"
        raise Invalid("weights", "pretrained", limit, "check the network and the image size, or give a file") from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def options(name: str, image_size: int) -> dict[str, Any]:
    """What a classifier must be told so that it returns logits alone and reads images of this size."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": image_size}
    return {"input_size": (image_size, image_size)} if name.startswith("maxvit") else {}


def last(network: nn.Module, kind: type[nn.Module]) -> tuple[str, Any] | None:
    """The last module of a kind and its name; None where there is none."""
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]
    return found[-1] if found else None


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The convolution that reads the image, and its name."""
    return next(((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)


def like(convolution: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """A fresh convolution that differs only in how many channels it reads."""
    size, stride, padding = convolution.kernel_size, convolution.stride, convolution.padding
    return nn.Conv2d(in_channels, convolution.out_channels, size, stride, padding, bias=convolution.bias is not None)


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
