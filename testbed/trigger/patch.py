"""A small patch in a corner: the trigger of BadNets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.trigger.canvas import copied


@dataclass(frozen=True)
class Patch:
    """x'[M] = value: a square of `size` pixels, `margin` pixels from a corner (Gu et al. 2017, arXiv 1708.06733).

    `value` is one number for all channels or one a channel, in 0..255; a 'checkerboard' alternates it with its complement.
    """

    size: int = 3
    corner: Literal["bottom_right", "bottom_left", "top_right", "top_left"] = "bottom_right"
    margin: int = 0
    value: tuple[int, ...] = (255,)
    pattern: Literal["solid", "checkerboard"] = "solid"

    def check(self, task: Task) -> None:
        """Raises `Invalid` where the patch does not fit the images, `Unsupported` where there are none."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"a patch needs images, not {task.kind}")
        channels, height, width = task.shape
        if self.size < 1 or self.margin < 0:
            raise Invalid("trigger.size", self.size, f"size must be at least 1 and margin at least 0 (it is {self.margin})")
        if self.size + self.margin > min(height, width):
            limit = f"with margin {self.margin} the patch does not fit into images of {height}x{width} pixels"
            raise Invalid("trigger.size", self.size, limit, "make it smaller")
        if len(self.value) not in (1, channels):
            raise Invalid(
                "trigger.value", list(self.value), f"the images have {channels} channel(s)", "give one number, or one a channel"
            )
        if not all(0 <= value <= 255 for value in self.value):
            raise Invalid("trigger.value", list(self.value), "pixels are whole numbers from 0 to 255")

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        height, width = inputs.shape[-2:]
        top = self.margin if self.corner.startswith("top") else height - self.margin - self.size
        left = self.margin if self.corner.endswith("left") else width - self.margin - self.size
        stamped = copied(inputs)
        stamped[..., top : top + self.size, left : left + self.size] = self._square().to(inputs)
        return stamped

    def _square(self) -> Tensor:
        value = torch.tensor(self.value).view(-1, 1, 1).expand(-1, self.size, self.size)
        if self.pattern == "solid":
            return value
        odd = (torch.arange(self.size)[:, None] + torch.arange(self.size)) % 2
        return torch.where(odd == 0, value, 255 - value)
