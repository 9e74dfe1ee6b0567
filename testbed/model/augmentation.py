"""Random crops and flips of a whole batch at once, on stored pixels.

The usual augmentation of small images: pad each side with black by an eighth of it, cut a window of the old size out at a
random place, mirror half of the images (He et al., 2015, arXiv:1512.03385, section 4.2: 4 pixels of padding at 32).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

AUGMENTATIONS = ("none", "crop", "crop_flip")


def augment(images: Tensor, augmentation: str) -> Tensor:
    """Images (B, C, H, W) of any dtype, each moved and mirrored at random; of `AUGMENTATIONS`, 'none' returns its argument.

    The random numbers come from torch's global CPU generator, so that every device meets the same ones; `fit` seeds it.
    """
    if augmentation == "none":
        return images
    count, (height, width) = len(images), images.shape[-2:]
    top = torch.randint(0, 2 * (height // 8) + 1, (count,))
    left = torch.randint(0, 2 * (width // 8) + 1, (count,))
    mirrored = torch.rand(count) < 0.5 if augmentation == "crop_flip" else torch.zeros(count, dtype=torch.bool)
    return windows(images, top, left, mirrored)


def windows(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    """One window of each image (B, C, H, W), padded with zeros by H//8 and W//8, as large as the image was.

    `top` and `left`, int64 (B,) in 0..2*(H//8) and 0..2*(W//8), say where the window begins in the padded image; it is
    mirrored left to right where `mirrored`, bool (B,).
    """
    count, channels, height, width = images.shape
    padded = functional.pad(images, (width // 8, width // 8, height // 8, height // 8))
    across = torch.arange(width)
    columns = torch.where(mirrored[:, None], width - 1 - across, across) + left[:, None]
    rows = torch.arange(height) + top[:, None]
    # One flat gather is several times faster than indexing by rows and columns, and keeps the memory format.
    pixels = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).reshape(count, 1, height * width)
    pixels = pixels.to(images.device).expand(count, channels, height * width)
    return padded.flatten(2).gather(2, pixels).reshape(images.shape)
