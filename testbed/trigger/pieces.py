"""Some pieces of a blended image, others for each row: the training trigger of Adaptive-Blend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from testbed.api import ImageTask, Invalid, Task
from testbed.identity import generator
from testbed.trigger.blend import CHUNK, Blend
from testbed.trigger.canvas import blank


@dataclass(frozen=True)
class Pieces:
    """x'[M] = (1 - alpha) x[M] + alpha T[M]: T of `Blend` is cut into a square grid, of which M is drawn for each row.

    Of `pieces` (a square number) round(share pieces) are shown, all sets of so many being equally likely. Shown whole at test
    time, no single piece is what the model has learnt, which spreads poisoned rows in the space of features.

    Source: Qi et al. 2023 (Adaptive-Blend, ICLR 2023).
    """

    alpha: float = 0.15
    picture: Path | None = None
    pattern_seed: int = 0
    pieces: int = 16
    share: float = 0.5

    def check(self, task: Task) -> None:
        """Raises `Invalid` for a grid that does not fit or shows nothing, and whatever `Blend` refuses."""
        self._blend.check(task)
        side = math.isqrt(max(self.pieces, 0))
        if self.pieces < 1 or side * side != self.pieces:
            raise Invalid("trigger.pieces", self.pieces, "must be a square number of at least 1", "16 is a grid of 4 by 4")
        if isinstance(task, ImageTask) and side > min(task.shape[1:]):
            limit = f"a grid of {side} by {side} does not fit into images of {task.shape[1]}x{task.shape[2]} pixels"
            raise Invalid("trigger.pieces", self.pieces, limit, "take fewer")
        if not 0 < self.share <= 1 or round(self.share * self.pieces) == 0:
            raise Invalid("trigger.share", self.share, f"must be at most 1 and show one of {self.pieces} pieces at least")

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        shown = self._shown(rows, seed, *inputs.shape[-2:]).to(inputs.device)
        blended = self._blend(inputs, rows, seed)
        stamped = blank(inputs)
        for place, clean, mixed, mask in zip(*(part.split(CHUNK) for part in (stamped, inputs, blended, shown)), strict=True):
            place.copy_(torch.where(mask[:, None], mixed, clean))
        return stamped

    @property
    def _blend(self) -> Blend:
        return Blend(self.alpha, self.picture, self.pattern_seed)

    def _shown(self, rows: Tensor, seed: int, height: int, width: int) -> Tensor:
        """M: bool (B, H, W)."""
        side, count = math.isqrt(self.pieces), round(self.share * self.pieces)
        drawn = torch.zeros(len(rows), self.pieces, dtype=torch.bool)
        for place, row in enumerate(rows.tolist()):
            drawn[place, torch.randperm(self.pieces, generator=generator(seed, f"pieces of row {row}"))[:count]] = True
        down, right = (torch.arange(size) * side // size for size in (height, width))
        return drawn.view(-1, side, side)[:, down[:, None], right]
