"""Some of four faint patches, others for each row: the triggers of Adaptive-Patch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.identity import generator
from testbed.trigger.canvas import blank


@dataclass(frozen=True)
class Patches:
    """x'[M] = (1 - a) x[M] + a T[M] for `shown` of four patches in the corners, drawn for each row.

    The patches are squares of `size` pixels in black and white: a chessboard at the bottom right, a frame at the top left, a
    diagonal cross at the top right and upright stripes at the bottom left. a is the patch's own of the four `opacities`, in
    that order; one of opacity 0 is never drawn, and all sets of so many others are equally likely.

    Source: Qi et al. 2023 (Adaptive-Patch, ICLR 2023) for one of four patches at 0.5, 0.2, 0.5 and 0.3 in training and two at
    1 in the test; the patches themselves are ours.
    """

    size: int = 4
    opacities: tuple[float, ...] = (0.5, 0.2, 0.5, 0.3)
    shown: int = 1

    def check(self, task: Task) -> None:
        """Raises `Invalid` for patches that overlap or cannot be drawn, `Unsupported` where there are no images."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"patches need images, not {task.kind}")
        most = min(task.shape[1:]) // 2
        if not 1 <= self.size <= most:
            raise Invalid("trigger.size", self.size, f"must lie between 1 and {most}: the patches would meet in the middle")
        if len(self.opacities) != 4 or not all(0 <= opacity <= 1 for opacity in self.opacities):
            raise Invalid("trigger.opacities", list(self.opacities), "must be four numbers between 0 and 1, one a patch")
        if not 1 <= self.shown <= len(self._drawn_from):
            limit = f"must lie between 1 and {len(self._drawn_from)}, the patches of an opacity above 0"
            raise Invalid("trigger.shown", self.shown, limit)

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        opacity = self._opacity(rows, seed, *inputs.shape[-2:]).to(inputs.device)
        pattern = self.pattern(*inputs.shape[-2:]).to(inputs.device)
        mixed = torch.lerp(inputs.float(), pattern.expand_as(inputs), opacity[:, None].expand_as(inputs))
        return blank(inputs).copy_(mixed if inputs.is_floating_point() else mixed.round_())

    @property
    def _drawn_from(self) -> list[int]:
        return [patch for patch, opacity in enumerate(self.opacities) if opacity > 0]

    def pattern(self, height: int, width: int) -> Tensor:
        """T: float32 (H, W) of 0 and 255, 0 between the patches."""
        side = torch.arange(self.size)
        down, across = side[:, None].expand(-1, self.size), side.expand(self.size, -1)
        last = self.size - 1
        drawn = (
            (down + across) % 2 == 0,
            (down % last == 0) | (across % last == 0) if last else down == 0,
            (down == across) | (down + across == last),
            across % 2 == 0,
        )
        pattern = torch.zeros(height, width)
        for patch, place in zip(drawn, self._corners(), strict=True):
            pattern[place] = 255.0 * patch
        return pattern

    def _corners(self) -> tuple[tuple[slice, slice], ...]:
        first, last = slice(None, self.size), slice(-self.size, None)
        return (last, last), (first, first), (first, last), (last, first)

    def _opacity(self, rows: Tensor, seed: int, height: int, width: int) -> Tensor:
        """a at each pixel, 0 where nothing is shown: float32 (B, H, W)."""
        opacity, candidates = torch.zeros(len(rows), height, width), torch.tensor(self._drawn_from)
        for place, row in enumerate(rows.tolist()):
            order = torch.randperm(len(candidates), generator=generator(seed, f"patches of row {row}"))
            for patch in candidates[order[: self.shown]].tolist():
                opacity[place][self._corners()[patch]] = self.opacities[patch]
        return opacity
