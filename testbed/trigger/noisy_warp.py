"""The warp of WaNet, and at every pixel a jump of its own: what its backdoor must not answer to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.identity import generator
from testbed.trigger.warp import Warp


@dataclass(frozen=True)
class NoisyWarp(Warp):
    """p + d(p) of `Warp`, and U[-1, 1]^2 / n more, drawn for each row and pixel: clip(warp + noise, -1, 1).

    Source: the noise mode of Nguyen and Tran 2021, arXiv 2102.10369 (WaNet).
    """

    def grid(self, rows: Tensor, seed: int, height: int, width: int) -> Tensor:
        warped = self._moved(self.field(height, width))
        noise = torch.empty(len(rows), height, width, 2)
        for place, row in enumerate(rows.tolist()):
            torch.rand(noise.shape[1:], generator=generator(seed, f"warp noise of row {row}"), out=noise[place])
        return (warped + (2 * noise - 1) / torch.tensor([width, height])).clamp(-1, 1)
