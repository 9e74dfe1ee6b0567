"""Where in a photograph is the face? Correlation with faces that are cut already."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

WINDOW = 15
"""Side of the neighbourhood that a pixel is compared with: light from one side then changes little."""

FLAT = 8.0
"""Grey levels that are added to the spread of a neighbourhood, so that noise of a flat one counts for little."""


def local_contrast(images: Tensor) -> Tensor:
    """(x - m) / (s + `FLAT`), with the mean m and the spread s of the `WINDOW` x `WINDOW` pixels around each: (N, 1, H, W)."""
    images = images.float()
    mean = _neighbourhood(images)
    return (images - mean) / (_neighbourhood((images - mean) ** 2).sqrt() + FLAT)


def _neighbourhood(images: Tensor) -> Tensor:
    return avg_pool2d(pad(images, (WINDOW // 2,) * 4, mode="replicate"), WINDOW, 1)


class Template:
    """What faces (N, 1, S, S) have in common: their mean local contrast within an ellipse, which leaves the corners out."""

    def __init__(self, faces: Tensor, *, symmetric: bool = False) -> None:
        side = faces.shape[-1]
        across = (torch.arange(side) - (side - 1) / 2) / (0.47 * side)
        self.mask = (across[:, None] ** 2 + across**2 < 1).float()
        mean = local_contrast(faces).mean((0, 1))
        mean = (mean + mean.flip(1)) / 2 if symmetric else mean
        centred = (mean - (mean * self.mask).sum() / self.mask.sum()) * self.mask
        self.values = centred / centred.norm()

    def likeness(self, searched: Searched) -> Tensor:
        """Its correlation, from -1 to 1, with the window that begins at each place: float (H - S + 1, W - S + 1)."""
        mean = searched.sums(self.mask) / self.mask.sum()
        spread = searched.sums(self.mask, squared=True) - mean**2 * self.mask.sum()
        return searched.sums(self.values) / spread.clamp(min=1e-3).sqrt()


class Searched:
    """A photograph uint8 (1, H, W), scaled down by `scale`, in which templates are looked for."""

    def __init__(self, photograph: Tensor, scale: float) -> None:
        size = [round(scale * side) for side in photograph.shape[-2:]]
        self.scaled = interpolate(photograph[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)

    @cached_property
    def _spectra(self) -> tuple[Tensor, Tensor]:
        contrast = local_contrast(self.scaled)[0, 0]
        return torch.fft.rfft2(contrast), torch.fft.rfft2(contrast**2)

    def sums(self, weights: Tensor, *, squared: bool = False) -> Tensor:
        """Sum of `weights`, float (S, S), times the local contrast (or its square), for each place where they fit."""
        height, width = self.scaled.shape[-2:]
        there = torch.fft.rfft2(weights, s=(height, width)).conj()
        found = torch.fft.irfft2(self._spectra[squared] * there, s=(height, width))
        return found[: height - weights.shape[0] + 1, : width - weights.shape[1] + 1]

    def cut(self, top: int, left: int, side: int) -> Tensor:
        """uint8 (1, S, S): the window that begins there."""
        return self.scaled[0, :, top : top + side, left : left + side].round().clamp(0, 255).to(torch.uint8)


class Place(NamedTuple):
    """Where a template fits best: how well, and in which row and column the window begins."""

    likeness: float
    top: int
    left: int


def best(likeness: Tensor) -> Place:
    """The highest of float (H, W)."""
    top, left = divmod(int(likeness.argmax()), likeness.shape[1])
    return Place(float(likeness[top, left]), top, left)


def aligned(photographs: Tensor, first: int, common: Template, scales: Sequence[float], side: int) -> Tensor:
    """Windows uint8 (N, 1, S, S) of photographs uint8 (N, 1, H, W) of one person, the face in the same place in each.

    The scale is the one of `scales` at which photograph `first` looks most like the template `common`: the camera of one person
    does not move. The place in each is where the likeness to `common` and to what was found in `first` is greatest in sum.
    """
    tried = [(best(common.likeness(Searched(photographs[first], scale))), scale) for scale in scales]
    place, scale = max(tried)
    own = Template(Searched(photographs[first], scale).cut(place.top, place.left, side)[None])
    windows = []
    for photograph in photographs:
        searched = Searched(photograph, scale)
        place = best(common.likeness(searched) + own.likeness(searched))
        windows.append(searched.cut(place.top, place.left, side))
    return torch.stack(windows)
