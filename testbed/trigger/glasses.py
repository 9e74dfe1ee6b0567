"""Drawn glasses over the eyes of an aligned face: an accessory as a trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.trigger.canvas import blank

SAMPLES = 4
"""Across and down a pixel, for the share of it that is covered."""

EXPONENTS = {"round": 2.0, "square": 4.0}


@dataclass(frozen=True)
class Glasses:
    """x' = x + alpha M (value - x), with M the share of each pixel, in 0..1, that a drawn pair of glasses covers.

    M is 1 on the frame, which is two rims around the eyes, a bridge between them and temples to either side, and `tint` within
    the rims (0: clear; near 1: sunglasses). alpha 1 pastes the accessory, less blends it. The eyes lie in the row `eye_row` and
    are `eye_distance` apart, the picture's middle between them. Lengths are shares of the picture: rows and heights of its
    height, all others of its width. A rim is the curve |2 u / lens_width|^p + |2 v / lens_height|^p = 1 around an eye, with
    p = 2 where `shape` is 'round' and 4 where it is 'square', `thickness` wide on its inside.

    Source: accessory injection and blended accessory injection (Chen et al. 2017, arXiv 1712.05526). The drawing is ours: the
    paper pastes photographs of glasses.
    """

    alpha: float = 1.0
    value: tuple[int, ...] = (0,)
    shape: Literal["round", "square"] = "square"
    tint: float = 0.0
    eye_row: float = 0.26
    eye_distance: float = 0.49
    lens_width: float = 0.4
    lens_height: float = 0.33
    thickness: float = 0.035

    def check(self, task: Task) -> None:
        """Raises `Invalid` for a share that cannot be drawn or a wrong colour, `Unsupported` where there are no images."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"glasses need images, not {task.kind}")
        channels = task.shape[0]
        if not 0 < self.alpha <= 1:
            raise Invalid("trigger.alpha", self.alpha, "must be above 0 and at most 1")
        if not 0 <= self.tint <= 1:
            raise Invalid("trigger.tint", self.tint, "must lie between 0 and 1")
        for name in ("eye_row", "eye_distance", "lens_width", "lens_height", "thickness"):
            if not 0 < getattr(self, name) < 1:
                raise Invalid(f"trigger.{name}", getattr(self, name), "a share of the picture lies between 0 and 1")
        if self.shape not in EXPONENTS:
            raise Invalid("trigger.shape", self.shape, "rims are round or square", "choose one of them")
        if len(self.value) not in (1, channels) or not all(0 <= value <= 255 for value in self.value):
            limit = f"colours are whole numbers from 0 to 255, one or {channels} of them"
            raise Invalid("trigger.value", list(self.value), limit, "0 is black")

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        weight = self.alpha * self.cover(*inputs.shape[-2:]).to(inputs.device)
        colour = torch.tensor(self.value, device=inputs.device).view(-1, 1, 1)
        if inputs.is_floating_point():
            return inputs + weight.to(inputs.dtype) * (colour.to(inputs.dtype) - inputs)
        return blank(inputs).copy_((inputs + weight * (colour - inputs.float())).round_())

    def cover(self, height: int, width: int) -> Tensor:
        """M: float32 (H, W)."""
        down = (torch.arange(SAMPLES * height) + 0.5) / (SAMPLES * height) - self.eye_row
        across = ((torch.arange(SAMPLES * width) + 0.5) / (SAMPLES * width) - 0.5).abs()
        aside = across - self.eye_distance / 2
        thick_down = self.thickness * width / height
        within = self._lens(aside, down, self.lens_width, self.lens_height)
        glass = self._lens(aside, down, self.lens_width - 2 * self.thickness, self.lens_height - 2 * thick_down)
        bars = ((down.abs() <= thick_down / 2)[:, None] & ~within).float()  # bridge and temples in one
        covered = torch.where(glass, self.tint, torch.where(within, 1.0, bars))
        return avg_pool2d(covered[None], SAMPLES)[0]

    def _lens(self, aside: Tensor, down: Tensor, width: float, height: float) -> Tensor:
        """bool (H, W): what lies within a curve so wide and high."""
        if width <= 0 or height <= 0:
            return torch.zeros(len(down), len(aside), dtype=torch.bool)
        exponent = EXPONENTS[self.shape]
        return (2 * aside / width).abs() ** exponent + ((2 * down / height).abs() ** exponent)[:, None] <= 1
