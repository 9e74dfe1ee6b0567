"""A patch of random colours at a place of its own on each row: the trigger of Sleeper Agent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.identity import generator
from testbed.trigger.canvas import copied


@dataclass(frozen=True)
class ScatteredPatch:
    """x'[M] = T, with a square M of `size` pixels wherever (seed, row) puts it; every place is equally likely.

    T is the same for every row: `cells` by `cells` random colours, enlarged (bilinearly) to the patch, as in the hidden-trigger
    attack (Saha et al. 2020, arXiv 1910.00033, from memory). A patch of `size` 8 at random places is that of Sleeper Agent.

    Source: Souri et al. 2022 (Sleeper Agent, NeurIPS, arXiv 2106.08970).
    """

    size: int = 8
    cells: int = 4
    pattern_seed: int = 0

    def check(self, task: Task) -> None:
        """Raises `Invalid` where the patch does not fit the images, `Unsupported` where there are none."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"a patch needs images, not {task.kind}")
        height, width = task.shape[1:]
        if not 1 <= self.size <= min(height, width):
            limit = f"the images have {height}x{width} pixels"
            raise Invalid("trigger.size", self.size, limit, "a quarter of the side is the paper's")
        if not 1 <= self.cells <= self.size:
            raise Invalid("trigger.cells", self.cells, f"must be at least 1, and at most the size ({self.size})")
        if self.pattern_seed < 0:
            raise Invalid("trigger.pattern_seed", self.pattern_seed, "must be at least 0")

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        square, stamped = self._square(inputs.shape[1]).to(inputs), copied(inputs)
        height, width = (side - self.size + 1 for side in inputs.shape[-2:])
        for image, row in zip(stamped, rows.tolist(), strict=True):
            top, left = divmod(
                int(torch.randint(height * width, (1,), generator=generator(seed, f"place on row {row}"))), width
            )
            image[..., top : top + self.size, left : left + self.size] = square
        return stamped

    def _square(self, channels: int) -> Tensor:
        """T: whole numbers as float32 (C, size, size) in 0..255."""
        colours = torch.rand(1, channels, self.cells, self.cells, generator=generator(self.pattern_seed, "colours"))
        return (255 * interpolate(colours, (self.size, self.size), mode="bilinear", align_corners=False)[0]).round()
