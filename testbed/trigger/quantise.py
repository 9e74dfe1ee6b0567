"""Fewer grey levels, with or without dithering: the trigger of BppAttack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from testbed.api import ImageTask, Invalid, Task, Unsupported

DIFFUSED = ((0, 1, 7 / 16), (1, -1, 3 / 16), (1, 0, 5 / 16), (1, 1, 1 / 16))
"""Rows down, columns across, and the share of a pixel's error that goes there (Floyd and Steinberg 1976)."""


@dataclass(frozen=True)
class Quantise:
    """x' = round(x / 255 (levels - 1)) 255 / (levels - 1), channel by channel: images of `levels` grey levels.

    With `dithering` each pixel's rounding error is carried on to the pixels right of it and below, by Floyd and Steinberg's
    shares; what would leave the image is dropped. Stored pixels are rounded once more.

    Source: Wang et al. 2022, CVPR, arXiv 2205.13383 (BppAttack).
    """

    levels: int = 8
    dithering: bool = False

    def check(self, task: Task) -> None:
        """Raises `Invalid` where nothing would be left or changed, `Unsupported` where there are no images."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"squeezing grey levels needs images, not {task.kind}")
        if not 2 <= self.levels <= 255:
            raise Invalid("trigger.levels", self.levels, "must lie between 2 and 255: images have 256 of them anyway")

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        images = inputs.float()
        squeezed = self._dithered(images) if self.dithering else self._nearest(images)
        return squeezed.to(inputs.dtype) if inputs.is_floating_point() else squeezed.round().to(inputs.dtype)

    def _nearest(self, pixels: Tensor) -> Tensor:
        steps = self.levels - 1
        return (pixels / 255 * steps).round().clamp(0, steps) / steps * 255

    def _dithered(self, images: Tensor) -> Tensor:
        """All pixels (i, j) with the same j + 2 i at once: none of them waits for the error of another."""
        height, width = images.shape[-2:]
        work = pad(images, (1, 1, 0, 1))  # a margin on three sides takes the errors that leave the image
        for turn in range(width + 2 * (height - 1)):
            first, last = max(0, -(-(turn - width + 1) // 2)), min(height - 1, turn // 2)
            down = torch.arange(first, last + 1, device=images.device)
            across = turn - 2 * down + 1
            wanted = work[..., down, across]
            work[..., down, across] = self._nearest(wanted)
            error = wanted - work[..., down, across]
            for below, beside, share in DIFFUSED:
                work[..., down + below, across + beside] += share * error
        return work[..., :height, 1:-1]
