"""JPEG: compress each query, which takes away what a photograph would not hold."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from testbed.api import Defence, DefenderResources, Invalid, Unsupported, Victim
from testbed.defence.preprocessing import Preprocessed, require_images


@dataclass(frozen=True)
class JPEG(Defence):
    """Answers to decode(encode(x, `quality`)), by a real codec (libjpeg, through Pillow): 8x8 cosine transforms, quantised.

    Images of one channel stay grey; of three, colour is stored at half the resolution, as usual. What is encoded are whole
    numbers in 0..255: float images are rounded, and no gradient passes. Raises: `Unsupported` for other data than images of one
    or three channels, `Invalid` for a quality outside 1..100.

    `quality` 75 is Pillow's own default. Both sources are about adversarial examples; what it does to a trigger is asked here.
    Source: Dziugaite et al. 2016, arXiv 1608.00853; Das et al. 2018, arXiv 1802.06816.
    """

    quality: int

    def check(self, resources: DefenderResources) -> None:
        channels = require_images(resources.task).shape[0]
        if channels not in (1, 3):
            raise Unsupported(f"needs images of 1 or 3 channels, not {channels}")
        if not 1 <= self.quality <= 100:
            raise Invalid("quality", self.quality, "must lie between 1 and 100")

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Victim:
        return Preprocessed(victim, Compressed(self.quality))


@dataclass(frozen=True)
class Compressed:
    """uint8 (B, C, H, W), on the device of the images (B, C, H, W), uint8 or float in 0..255, that it is given."""

    quality: int

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        stored = images.round().clamp(0, 255).to("cpu", torch.uint8)
        shown = torch.empty_like(stored)
        for place, image in enumerate(stored):
            shown[place] = torch.from_numpy(self._once(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)
        return shown.to(images.device)

    def _once(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C) to the same."""
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)).save(
            file, "JPEG", quality=self.quality
        )
        return np.array(Image.open(file)).reshape(pixels.shape)
