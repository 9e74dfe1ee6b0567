"""ShrinkPad: show the model a smaller copy of each query at a random place, so that a trigger is not where it was learnt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from testbed.api import Defence, DefenderResources, Invalid, Victim
from testbed.defence.preprocessing import Preprocessed, require_images
from testbed.identity import generator


@dataclass(frozen=True)
class ShrinkAndPad(Defence):
    """Shrinks each query by k pixels a side and pads it with black to its old size, at a random place.

    x' = pad(resize(x, (H - k_H, W - k_W)), top, left), top in 0..k_H and left in 0..k_W, k_H = round(`share` H), bilinear with
    smoothing. The model is not trained on such images (the paper's plain form). `share` 0.125 is the paper's 4 pixels of 32;
    counting in shares is ours, for images of other sizes. The place is drawn from the seed and the pixels of the query, which
    is ours too: an image has the same answer in every batch and at every repetition, so asking again does not help an attacker.

    Differentiable in float images but for the place, which is a step function of rounded pixels. Raises: `Unsupported` without
    images, `Invalid` for a share that moves nothing or leaves nothing.

    Source: Li et al. 2021, arXiv 2104.02361.
    """

    share: float

    def check(self, resources: DefenderResources) -> None:
        sides = require_images(resources.task).shape[1:]
        if not 0 < self.share < 1:
            raise Invalid("share", self.share, "must lie between 0 and 1, both excluded")
        pixels = [round(self.share * side) for side in sides]
        if not all(0 < count < side for count, side in zip(pixels, sides, strict=True)):
            raise Invalid("share", self.share, f"takes {pixels[0]} of {sides[0]} and {pixels[1]} of {sides[1]} pixels")

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Victim:
        return Preprocessed(victim, ShrunkAndPadded(self.share, resources.seed))


@dataclass(frozen=True)
class ShrunkAndPadded:
    """float32 (B, C, H, W) for images (B, C, H, W), each shrunk by `share` and put at a place of its own."""

    share: float
    seed: int

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        down, across = round(self.share * height), round(self.share * width)
        small = functional.interpolate(images.float(), (height - down, width - across), mode="bilinear", antialias=True)
        top, left = places(images, down, across, self.seed)
        padded = functional.pad(small, (across, across, down, down))
        rows = torch.arange(height, device=images.device) + (down - top)[:, None]
        columns = torch.arange(width, device=images.device) + (across - left)[:, None]
        every = torch.arange(len(images), device=images.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def places(images: Tensor, down: int, across: int, seed: int) -> tuple[Tensor, Tensor]:
    """int64 (B,) in 0..down and (B,) in 0..across: a random place that depends on the seed and the image's rounded pixels."""
    pixels = images.round().to(torch.int64).flatten(1)
    # A sum with random odd factors modulo 2^64, of which the upper bits count: the same on every device, unlike floats.
    factors = torch.randint(-(2**62), 2**62, (2, pixels.shape[1]), generator=generator(seed, "places")) * 2 + 1
    hashed = (pixels[:, None] * factors.to(pixels.device)).sum(2) >> 33
    return hashed[:, 0] % (down + 1), hashed[:, 1] % (across + 1)
