"""The fifteen common corruptions of images in five severities, by their definitions, for images of any size.

Source: Hendrycks and Dietterich 2019 (ICLR, arXiv 1903.12261): ImageNet-C. Intensities are theirs; lengths are the same share
of the shorter side as theirs of 224 pixels. Approximations, where the original needs pictures or loops over pixels: `frost` is
a drawn texture instead of photographs, `fog` and `snow` are made of bilinear noise, `glass_blur` moves pixels by a random field
instead of swapping them one by one, `elastic_transform` draws its displacement at the strength that smoothing leaves it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from testbed.identity import derive, generator

SIDE = 224
SAMPLES = 15
"""Positions along a motion."""

GAUSSIAN, SHOT, IMPULSE = (0.08, 0.12, 0.18, 0.26, 0.38), (60, 25, 12, 5, 3), (0.03, 0.06, 0.09, 0.17, 0.27)
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
ZOOM = ((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.25, 0.02), (1.30, 0.03))
SNOW = (
    *((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7)),
    *((0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
)
FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
BRIGHTNESS, CONTRAST = (0.1, 0.2, 0.3, 0.4, 0.5), (0.4, 0.3, 0.2, 0.1, 0.05)
ELASTIC = ((0.0, 0.7, 0.1), (0.017, 0.08, 0.2), (0.0036, 0.01, 0.02), (0.005, 0.01, 0.02), (0.0087, 0.01, 0.02))
PIXELATE, JPEG = (0.6, 0.5, 0.4, 0.3, 0.25), (25, 18, 15, 10, 7)


def corrupt(images: Tensor, kind: str, severity: int, seed: int) -> Tensor:
    """The images float (B, C, H, W) in 0..1 under one of `KINDS` with a severity of 1 to 5, in 0..1 and on the same device.

    What is random depends on (seed, kind, severity) and on the image alone, never on the batch: all rows meet the same noise.
    """
    field = generator(derive(seed, kind), str(severity))
    return KINDS[kind](images, severity - 1, field).clamp(0, 1)


def gaussian_noise(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Adds N(0, c^2)."""
    return images + GAUSSIAN[level] * _normal(images, field)


def shot_noise(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Poisson(c x) / c."""
    state, found = field.get_state(), []
    for image in (images.clamp(0, 1) * SHOT[level]).cpu():
        field.set_state(state)  # every image begins with the same one, whatever came before it
        found.append(torch.poisson(image, generator=field))
    return torch.stack(found).to(images.device) / SHOT[level]


def impulse_noise(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """A share c of all values becomes 0 or 1."""
    drawn = torch.rand(images.shape[1:], generator=field).to(images.device)
    return torch.where(drawn < IMPULSE[level] / 2, 0.0, torch.where(drawn > 1 - IMPULSE[level] / 2, 1.0, images))


def defocus_blur(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """A disk of radius r, its edge softened."""
    radius, softness = DEFOCUS[level][0] * _unit(images), DEFOCUS[level][1]
    reach = math.ceil(radius + 0.5)
    place = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    disk = (radius + 0.5 - (place[:, None] ** 2 + place**2).sqrt()).clamp(0, 1)
    return _gaussian_blur(_filtered(images, disk / disk.sum()), softness * _unit(images))


def glass_blur(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Blurred, every pixel read from a random place nearby, blurred."""
    deviation, most, times = GLASS[level]
    shown = _gaussian_blur(images, deviation * _unit(images))
    for _ in range(times):
        offsets = 2 * torch.rand(2, *images.shape[2:], generator=field) - 1
        shown = _displaced(shown, most * _unit(images) * offsets)
    return _gaussian_blur(shown, deviation * _unit(images))


def motion_blur(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Moved along a line at -45 to 45 degrees; older positions weigh less."""
    radius, deviation = MOTION[level]
    angle = (torch.rand((), generator=field).item() - 0.5) * math.pi / 2
    return _moved(images, angle, radius * _unit(images), deviation * _unit(images))


def zoom_blur(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """The mean of the image and of what a lens that zooms in sees."""
    most, step = ZOOM[level]
    factors = [1 + step * number for number in range(round((most - 1) / step) + 1)]
    zoomed = [_warped(images, torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]])) for factor in factors]
    return (images + torch.stack(zoomed).sum(0)) / (len(zoomed) + 1)


def snow(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Paled, with flakes of thresholded noise that fell some way."""
    mean, deviation, size, least, radius, spread, share = SNOW[level]
    height, width = images.shape[2:]
    coarse = [max(2, math.ceil(side / max(1.0, size * _unit(images)))) for side in (height, width)]
    flakes = mean + deviation * torch.randn(1, 1, *coarse, generator=field)
    flakes = functional.interpolate(flakes, (height, width), mode="bilinear", align_corners=False)
    flakes = torch.where(flakes < least, 0.0, flakes).clamp(0, 1)
    angle = -math.pi / 2 + (torch.rand((), generator=field).item() - 0.5) * math.pi / 2
    flakes = _moved(flakes, angle, radius * _unit(images), spread * _unit(images)).to(images)
    grey = images.mean(1, keepdim=True)
    pale = share * images + (1 - share) * torch.maximum(images, 1.5 * grey + 0.5)
    return pale + flakes + flakes.flip(2, 3)


def frost(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Shines through ice: ridges of noise in several sizes."""
    kept, share = FROST[level]
    ridges = 1 - 2 * (_clouds(images, 1.5, field) - 0.5).abs()
    return kept * images + share * ridges**2


def fog(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Behind clouds of noise in several sizes, each octave weaker by a factor; as bright at most as before."""
    strength, decay = FOG[level]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + strength * _clouds(images, decay, field)) * brightest / (brightest + strength)


def brightness(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """The value of the HSV colour plus c: hue and saturation stay."""
    value = images.amax(1, keepdim=True)
    wanted = (value + BRIGHTNESS[level]).clamp(max=1)
    return torch.where(value > 0, images * wanted / value.clamp(min=1e-12), wanted)


def contrast(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Each channel's distance from its mean times c."""
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * CONTRAST[level] + means


def elastic_transform(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Sheared by moving three corners, then displaced by a smooth random field."""
    strength, smooth, shift = ELASTIC[level]
    matrix = torch.tensor([[1.0, 0, 0], [0, 1, 0]]) + shift * (2 * torch.rand(2, 3, generator=field) - 1)
    offsets, side = torch.randn(2, 1, *images.shape[2:], generator=field), min(images.shape[2:])
    offsets = _gaussian_blur(offsets, smooth * side)[:, 0]
    offsets = strength * side * offsets / offsets.std().clamp(min=1e-6)
    return _displaced(_warped(images, matrix), offsets)


def pixelate(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """Means over areas, in fewer pixels."""
    size = [max(1, round(PIXELATE[level] * side)) for side in images.shape[2:]]
    return functional.interpolate(functional.interpolate(images, size, mode="area"), images.shape[2:], mode="nearest")


def jpeg_compression(images: Tensor, level: int, field: torch.Generator) -> Tensor:
    """As a JPEG file of a low quality; of images that have neither one channel nor three, each channel is a file."""
    stored = (255 * images).round().clamp(0, 255).byte().cpu()
    whole = stored if stored.shape[1] in (1, 3) else stored.flatten(0, 1)[:, None]
    seen = np.stack([_as_jpeg(image, JPEG[level]) for image in whole.permute(0, 2, 3, 1).numpy()])
    return torch.from_numpy(seen).permute(0, 3, 1, 2).reshape(stored.shape).to(images) / 255


KINDS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    kind.__name__: kind
    for kind in (
        *(gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur),
        *(snow, frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression),
    )
}


def _as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, 1 or 3) to the same."""
    file = io.BytesIO()
    plain = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    Image.fromarray(plain).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file)).reshape(pixels.shape)


def _unit(images: Tensor) -> float:
    """How many pixels one of 224 is here."""
    return min(images.shape[2:]) / SIDE


def _normal(images: Tensor, field: torch.Generator) -> Tensor:
    return torch.randn(images.shape[1:], generator=field).to(images)


def _filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Each channel under an odd kernel (h, w); pixels outside repeat the edge."""
    tall, wide = (side // 2 for side in kernel.shape)
    padded = functional.pad(images, (wide, wide, tall, tall), mode="replicate")
    channels = images.shape[1]
    return functional.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


def _gaussian_blur(images: Tensor, deviation: float) -> Tensor:
    if deviation <= 0.05:
        return images
    reach = max(1, math.ceil(3 * deviation))
    weights = torch.exp(-(torch.arange(-reach, reach + 1).to(images) ** 2) / (2 * deviation**2))
    weights = weights / weights.sum()
    return _filtered(_filtered(images, weights[:, None]), weights[None])


def _warped(images: Tensor, matrix: Tensor) -> Tensor:
    """Read at matrix @ (x, y, 1), coordinates from -1 to 1."""
    grid = functional.affine_grid(matrix.to(images)[None], [1, *images.shape[1:]], align_corners=False)
    return _read(images, grid)


def _displaced(images: Tensor, offsets: Tensor) -> Tensor:
    """Read at (y, x) + offsets (2, H, W), in pixels."""
    identity = functional.affine_grid(torch.eye(2, 3).to(images)[None], [1, *images.shape[1:]], align_corners=False)
    sides = torch.tensor([images.shape[3], images.shape[2]]).to(images)
    return _read(images, identity + 2 * offsets.flip(0).permute(1, 2, 0).to(images) / sides)


def _read(images: Tensor, grid: Tensor) -> Tensor:
    wide = grid.expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, wide, mode="bilinear", padding_mode="reflection", align_corners=False)


def _moved(images: Tensor, angle: float, length: float, deviation: float) -> Tensor:
    positions = [2 * length * number / (SAMPLES - 1) for number in range(SAMPLES)]
    weights = [math.exp(-(position**2) / (2 * deviation**2)) for position in positions]
    shape, total = images.shape[2:], torch.zeros_like(images)
    for position, weight in zip(positions, weights, strict=True):
        offsets = torch.tensor([math.sin(angle), math.cos(angle)]) * position
        total += weight / sum(weights) * _displaced(images, offsets[:, None, None].expand(2, *shape))
    return total


def _clouds(images: Tensor, decay: float, field: torch.Generator) -> Tensor:
    """(1, 1, H, W) in 0..1: noise of 2, 4, 8 ... cells a side, each finer one weaker by a factor."""
    shape = images.shape[2:]
    clouds, weight, cells = torch.zeros(1, 1, *shape), 1.0, 2
    while cells <= 2 * max(shape):
        noise = torch.rand(1, 1, min(cells, shape[0]), min(cells, shape[1]), generator=field)
        clouds += weight * functional.interpolate(noise, shape, mode="bilinear", align_corners=False)
        weight, cells = weight / decay, 2 * cells
    low, high = clouds.aminmax()
    return ((clouds - low) / (high - low).clamp(min=1e-12)).to(images)
