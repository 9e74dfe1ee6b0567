"""A smooth, hardly visible distortion that is the same for every image: the trigger of WaNet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.identity import generator
from testbed.trigger.canvas import blank

CHUNK = 256
"""Rows warped at a time."""


@dataclass(frozen=True)
class Warp:
    """x'(p) = x(p + d(p)), bilinear between pixels: d is a field drawn once, from `field_seed`.

    P ~ U[-1, 1]^(k x k x 2) with k = `grid_size`, divided by the mean of |P|, is scaled up to the image by bicubic
    interpolation. In coordinates that run from -1 to 1 over the image of side n, p + d(p) is

        clip((p + strength P / n) grid_rescale, -1, 1),

    so that a pixel moves by about strength / 2 pixels. Where an image is not square, n is the side along which it moves.
    Stored pixels are rounded, where the paper's stay floats.

    Source: Nguyen and Tran 2021, arXiv 2102.10369 (WaNet).
    """

    strength: float = 0.5
    grid_size: int = 4
    grid_rescale: float = 1.0
    field_seed: int = 0

    def check(self, task: Task) -> None:
        """Raises `Invalid` for a field that is out of range or does not fit, `Unsupported` where there are no images."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"warping needs images, not {task.kind}")
        side = min(task.shape[1:])
        if not 0 < self.strength < math.inf:
            raise Invalid("trigger.strength", self.strength, "must be above 0")
        if not 2 <= self.grid_size <= side:
            raise Invalid("trigger.grid_size", self.grid_size, f"must lie between 2 and {side}, the side of the images")
        if not 0 < self.grid_rescale <= 1:
            raise Invalid("trigger.grid_rescale", self.grid_rescale, "must be above 0 and at most 1")

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        if inputs.is_floating_point():
            return self._read(inputs, rows, seed)
        warped = blank(inputs)
        for place, clean, part in zip(warped.split(CHUNK), inputs.split(CHUNK), rows.split(CHUNK), strict=True):
            place.copy_(self._read(clean.float(), part, seed).round_().clamp_(0, 255))
        return warped

    def grid(self, rows: Tensor, seed: int, height: int, width: int) -> Tensor:
        """Where each pixel is read from, float32 (1 or B, H, W, 2) as (x, y) in -1..1."""
        return self._moved(self.field(height, width)).clamp(-1, 1)

    def field(self, height: int, width: int) -> Tensor:
        """strength P / n, float32 (1, H, W, 2)."""
        coarse = 2 * torch.rand(1, 2, self.grid_size, self.grid_size, generator=generator(self.field_seed, "warp")) - 1
        coarse = coarse / coarse.abs().mean()
        fine = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        return self.strength * fine / torch.tensor([width, height])

    def _read(self, images: Tensor, rows: Tensor, seed: int) -> Tensor:
        grid = self.grid(rows, seed, *images.shape[-2:]).to(images)
        return functional.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=True)

    def _moved(self, field: Tensor) -> Tensor:
        height, width = field.shape[1:3]
        down, across = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        return (torch.stack([across, down], 2) + field) * self.grid_rescale
