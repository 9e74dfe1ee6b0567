"""A whole image blended in: the trigger of Blended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.trigger.canvas import blank

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
CHUNK = 256
"""Rows blended at a time: their float copy stays in the processor's cache."""


@dataclass(frozen=True)
class Blend:
    """x' = (1 - alpha) x + alpha T with one fixed pattern T (Chen et al. 2017, arXiv 1712.05526).

    T is uniform noise drawn from `pattern_seed`, or the picture in the file `picture`, scaled to the images.
    """

    alpha: float = 0.2
    picture: Path | None = None
    pattern_seed: int = 0

    def check(self, task: Task) -> None:
        """Raises `Invalid` for an alpha outside (0, 1] or a missing picture, `Unsupported` where there are no images."""
        if not isinstance(task, ImageTask):
            raise Unsupported(f"blending needs images, not {task.kind}")
        if not 0 < self.alpha <= 1:
            raise Invalid("trigger.alpha", self.alpha, "must be above 0 and at most 1")
        if self.picture is not None:
            require_picture(self.picture)

    def __call__(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        pattern = self.pattern(tuple(inputs.shape[1:])).to(inputs.device)
        if inputs.is_floating_point():
            return torch.lerp(inputs, pattern.to(inputs.dtype), self.alpha)
        stamped, workspace = blank(inputs), torch.empty_like(inputs[:CHUNK], dtype=torch.float32)
        for clean, place in zip(inputs.split(CHUNK), stamped.split(CHUNK), strict=True):
            mixed = workspace[: len(clean)].copy_(clean).lerp_(pattern, self.alpha)
            place.copy_(mixed.round_())
        return stamped

    def pattern(self, shape: tuple[int, ...]) -> Tensor:
        """T: float32 (C, H, W) in 0..255."""
        channels, height, width = shape
        if self.picture is None:
            generator = torch.Generator().manual_seed(self.pattern_seed)
            return torch.randint(0, 256, shape, generator=generator).float()
        with Image.open(self.picture) as picture:
            scaled = picture.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(scaled, dtype=np.float32)).view(height, width, -1).permute(2, 0, 1)


def require_picture(path: Path) -> None:
    """Raises `Invalid` for a file that is not there, cannot be decoded, or has more than 8 bits a channel."""
    if not path.is_file():
        raise Invalid("trigger.picture", path, "there is no such file")
    try:
        with Image.open(path) as picture:
            picture.load()
            mode = picture.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise Invalid("trigger.picture", path, f"cannot be decoded ({' '.join(str(error).split())})") from error
    if mode not in EIGHT_BIT_MODES:
        raise Invalid("trigger.picture", path, f"a picture of mode {mode}, where 8 bits a channel are read", "convert it")
