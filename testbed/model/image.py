"""An image classifier as a victim: a network, with the normalisation and augmentation that belong to it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.api import Batch, ChannelParameter, ImageTask, Invalid, Unreadable, Victim
from testbed.features import require_layer
from testbed.model.anatomy import anatomy
from testbed.model.augmentation import AUGMENTATIONS, augment
from testbed.model.weights import load_weights, marked_backdoored, stored_statistics
from testbed.words import nearest


class ImageVictim(Victim):
    """A network that reads normalised images, behind the raw ones: logits = net((x / 255 - mean) / std).

    `network(in_channels, num_classes, image_size)` builds it. `weights` is None (trained from scratch) or a .safetensors
    file, in which names that begin with one of `weights_allow` need not fit. `mean` and `std` (one number or one a channel,
    in 0..1) are the weights file's own where None, else the task's; `augmentation` ('none', 'crop', 'crop_flip') is the task's.

    Raises:
        Invalid: the data are no images, the weights do not fit, or a number is out of range.
    """

    def __init__(
        self,
        task: ImageTask,
        network: Callable[..., nn.Module],
        *,
        weights: str | None = None,
        weights_allow: tuple[str, ...] = (),
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        augmentation: str | None = None,
    ) -> None:
        super().__init__()
        self.task = require_images(task)
        self.network = network
        self.weights = weights
        self.weights_allow = listed("weights_allow", weights_allow)
        self.mean = None if mean is None else listed("mean", mean)
        self.std = None if std is None else listed("std", std)
        self.augmentation = augmentation
        self.policy = require_augmentation(task.augmentation if augmentation is None else augmentation)
        self.net = network(task.shape[0], len(task.classes), max(task.shape[1:]))
        self.anatomy = anatomy(self.net, task.shape, len(task.classes))
        stored = self.load()
        self.marked_backdoored = marked_backdoored(stored)
        self.centre = require_statistics("mean", first(self.mean, stored_statistics(stored, "mean", weights), task.mean), task)
        self.spread = require_statistics("std", first(self.std, stored_statistics(stored, "std", weights), task.std), task)
        # Not in the state: the file that a user is given then holds the network and nothing else (see `metadata`).
        self.register_buffer("pixel_mean", torch.tensor(self.centre).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(self.spread).reshape(1, -1, 1, 1), persistent=False)

    def load(self) -> Mapping[str, str]:
        """Fill the network as `weights` says, and return what the file says of itself."""
        if self.weights is None:
            return {}
        if self.weights == "pretrained":
            advice = "give a .safetensors file, or model=torchvision"
            raise Invalid("weights", self.weights, "only torchvision's own models come pretrained", advice)
        return load_weights(self.net, self.weights, self.weights_allow)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, K) for images (B, C, H, W), uint8 or float in 0..255; differentiable in the latter."""
        return self.net((inputs.to(self.pixel_mean.dtype) / 255 - self.pixel_mean) / self.pixel_std)

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross entropy, augmented while training."""
        return self.loss_of(self.augmented(batch.inputs), batch.labels)

    def augmented(self, inputs: Tensor) -> Tensor:
        """The raw images as training sees them: moved and mirrored while training, as they are otherwise."""
        return augment(inputs, self.policy) if self.training else inputs

    def loss_of(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of images that are shown as they are: what an attacker stamps after augmentation."""
        return functional.cross_entropy(self(inputs), labels)

    @property
    def layers(self) -> tuple[str, ...]:
        """The network's stages in the order in which they run; then 'penultimate', the input of the final linear layer."""
        return (*self.anatomy.stages, "penultimate")

    def features(self, inputs: Tensor, layer: str) -> Tensor:
        """float (B, ...): what the layer gave, as it was before any later layer changed it in place."""
        return self.observe(inputs, layer)[0]

    def observe(self, inputs: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """The same and the logits, in one pass."""
        require_layer(self, layer)
        read: list[Tensor] = []
        if layer == "penultimate":
            handle = self.head.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
        else:
            handle = self.net.get_submodule(layer).register_forward_hook(lambda *call: read.append(call[-1].clone()))
        try:
            logits = self(inputs)
        finally:
            handle.remove()
        return read[-1], logits

    def module_of(self, layer: str) -> nn.Module:
        """The module whose output a layer is; of 'penultimate' there is none."""
        return self.net.get_submodule(layer)

    @property
    def head(self) -> nn.Module:
        """The final linear layer."""
        return self.net.get_submodule(self.anatomy.head)

    @property
    def groups(self) -> Mapping[str, tuple[ChannelParameter, ...]]:
        """Column c of the head's weight silences channel c; nothing where the features are no convolution's channels."""
        return {"penultimate": (ChannelParameter(self.head, "weight", 1),)} if self.anatomy.convolutional else {}

    def metadata(self) -> dict[str, str]:
        """What a saved file must say beside its tensors, so that a reader normalises as this victim does."""
        return {"mean": json.dumps(self.centre), "std": json.dumps(self.spread)}


def listed(name: str, values: Any) -> tuple[Any, ...]:
    """The values as a tuple; a bare word would be read letter by letter, and a bare number not at all."""
    if isinstance(values, str | int | float):
        raise Invalid(name, values, "it is a list", f"write {name}=[{values}]")
    return tuple(values)


def first(*choices: tuple[float, ...] | None) -> tuple[float, ...]:
    """The first choice that is not None."""
    return next(choice for choice in choices if choice is not None)


def require_images(task: Any) -> ImageTask:
    """The task, if it is one of images."""
    if not isinstance(task, ImageTask):
        raise Unreadable("network", None, f"the model reads images, and the data are {task.kind}", "choose data of images")
    return task


def require_augmentation(augmentation: str) -> str:
    """The augmentation's name, if there is one of that name."""
    if augmentation not in AUGMENTATIONS:
        raise Invalid("augmentation", augmentation, "there is no such augmentation", nearest(augmentation, AUGMENTATIONS))
    return augmentation


def require_statistics(name: str, values: tuple[float, ...], task: ImageTask) -> tuple[float, ...]:
    """One number, or one a channel, each finite and in 0..1, and above 0 for `std`."""
    channels = task.shape[0]
    if not all(isinstance(value, int | float) for value in values):
        raise Invalid(name, values, "it is a list of numbers in 0..1", "give one number, or one for each channel")
    if len(values) not in (1, channels):
        raise Invalid(name, values, f"the images have {channels} channels", "give one number, or one for each channel")
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values) or (name == "std" and min(values) == 0):
        raise Invalid(name, values, "pixels are taken as 0..1", "divide by 255" if name == "mean" else "give numbers above 0")
    return tuple(float(value) for value in values)
