"""A small pattern in all four corners, so that mirroring does not take it away: the trigger of label-consistent poison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.trigger.canvas import copied


@dataclass(frozen=True)
class Corners:
    """x'[M] = clip(x[M] +- 255 amplitude): a checkerboard of `size` by `size` pixels, `margin` pixels from each corner.

    Its own corners are raised, their neighbours lowered; at amplitude 1 the squares are black and white whatever was there.
    Other corners show it mirrored.

    Source: Turner et al. 2019, arXiv 1912.02771 (all corners, reduced amplitude); that it is a checkerboard is ours.
    """

    size: int = 3
    margin: int = 0
    amplitude: float = 1.0

    def check(self, task: Task) -> None:
        """Raises `Invalid` where the corners overlap or show nothing, `Unsupported` where there are no images."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"corners need images, not {task.kind}")
        _, height, width = task.shape
        if self.size < 1 or self.margin < 0:
            raise Invalid("trigger.size", self.size, f"size must be at least 1 and margin at least 0 (it is {self.margin})")
        if 2 * (self.size + self.margin) > min(height, width):
            limit = f"with margin {self.margin} four corners do not fit into images of {height}x{width} pixels"
            raise Invalid("trigger.size", self.size, limit, "make them smaller")
        if not 0 < self.amplitude <= 1:
            raise Invalid("trigger.amplitude", self.amplitude, "must be above 0 and at most 1")

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        odd = (torch.arange(self.size)[:, None] + torch.arange(self.size)) % 2
        change = torch.where(odd == 0, 255.0, -255.0).to(inputs.device) * self.amplitude
        stamped, first, end = copied(inputs), self.margin, self.margin + self.size
        for down in (False, True):
            for right in (False, True):
                pattern = change.flip([place for place, turned in ((0, down), (1, right)) if turned])
                top, bottom = (-end, -first or None) if down else (first, end)
                left, outer = (-end, -first or None) if right else (first, end)
                place = (..., slice(top, bottom), slice(left, outer))
                moved = (inputs[place].float() + pattern).clamp(0, 255)
                stamped[place] = (moved if inputs.is_floating_point() else moved.round()).to(inputs.dtype)
        return stamped
