"""Vertical stripes, brighter and darker by turns: the trigger of SIG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import ImageTask, Invalid, Task, Unsupported


@dataclass(frozen=True)
class Sinusoid:
    """x'(i, j) = clip(x(i, j) + amplitude sin(2 pi j frequency / W), 0, 255) for columns j = 0 .. W - 1, in every channel.

    `amplitude` is in grey levels, `frequency` in periods over the width of the image. Stored pixels are rounded.

    Source: Barni et al. 2019, arXiv 1902.11237 (SIG), whose columns count from 1: another phase of the same wave.
    """

    amplitude: float = 40.0
    frequency: float = 6.0

    def check(self, task: Task) -> None:
        """Raises `Invalid` for a wave that is out of range or that no column shows, `Unsupported` where there are no images."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"a wave over pixels needs images, not {task.kind}")
        if not 0 < self.amplitude <= 255:
            raise Invalid("trigger.amplitude", self.amplitude, "must be above 0 and at most 255 grey levels")
        if not 0 < self.frequency < math.inf:
            raise Invalid("trigger.frequency", self.frequency, "must be above 0")
        largest = float(self.wave(task.shape[2]).abs().max())
        if largest < 0.5:
            limit = f"over {task.shape[2]} columns the wave is {largest:.2g} grey levels at most, which rounding takes away"
            raise Invalid("trigger.frequency", self.frequency, limit, "choose one that is no multiple of half the width")

    def wave(self, width: int) -> Tensor:
        """float32 (width,), in grey levels; the sine is taken in double precision."""
        turns = torch.arange(width, dtype=torch.float64) * self.frequency / width
        return (self.amplitude * torch.sin(2 * math.pi * turns)).float()

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        waved = (inputs.float() + self.wave(inputs.shape[-1]).to(inputs.device)).clamp_(0, 255)
        return waved.to(inputs.dtype) if inputs.is_floating_point() else waved.round_().to(inputs.dtype)
