"""Procedural colour icons: ten shapes that are drawn here, so that there is nothing to download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from testbed.api import Invalid, Splits
from testbed.data.cache import cached_tensors, digest_of
from testbed.data.memory import MemoryExamples
from testbed.data.splits import divide, image_task

SIZE = 32
CHUNK = 250  # images drawn together: their distance fields stay within the processor's cache
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`distance(x, y)`: signed distance to a shape of about unit radius, negative inside; float64 in and out, one shape."""


def icons(
    cache: str | Path,
    *,
    train_size: int = 5000,
    test_size: int = 2000,
    hardness: float = 0.4,
    validation_per_class: int = 20,
    reserve_per_class: int = 25,
    reserve_source: str = "reserved",
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.28,),
    augmentation: str = "none",
) -> Splits:
    """Icons of 10 shapes, uint8 (N, 3, 32, 32), equally many of each, always the same ones.

    Colours, place, size, angle, noise and strokes across the image are random; `hardness` in 0..1 scales the last five.
    Drawn once and kept in `cache`. Source: this project.

    Raises:
        Invalid: `hardness` or a size is out of range.
    """
    task = image_task(tuple(SHAPES), (3, SIZE, SIZE), mean=mean, std=std, augmentation=augmentation)
    for parameter, size in (("train_size", train_size), ("test_size", test_size)):
        if size < len(SHAPES):
            raise Invalid(parameter, size, f"there are {len(SHAPES)} shapes", "ask for at least one image of each")
    if not 0 <= hardness <= 1:
        raise Invalid("hardness", hardness, "hardness lies in 0..1")

    def draw_parts() -> dict[str, torch.Tensor]:
        train, test = (draw(size, hardness=hardness, seed=seed) for seed, size in enumerate((train_size, test_size)))
        return {"train": train[0], "train_labels": train[1], "test": test[0], "test_labels": test[1]}

    # The way of drawing is part of what the images depend on.
    key = digest_of(Path(__file__).read_bytes(), repr((train_size, test_size, float(hardness))))
    drawn = cached_tensors(cache, f"icons-{key[:32]}", draw_parts)
    return divide(
        "icons",
        task,
        MemoryExamples(drawn["train"], drawn["train_labels"]),
        MemoryExamples(drawn["test"], drawn["test_labels"]),
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )


def disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A filled circle."""
    return np.hypot(x, y) - 0.85


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A thick circle line."""
    return np.abs(np.hypot(x, y) - 0.72) - 0.2


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square."""
    return box(x, y, 0.75, 0.75)


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A triangle that points up."""
    return polygon(x, y, [(0.0, -1.0), (0.95, 0.7), (-0.95, 0.7)])


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two bars at right angles."""
    return np.minimum(box(x, y, 0.95, 0.27), box(x, y, 0.27, 0.95))


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A star of five points."""
    angles = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.42)
    return polygon(x, y, list(zip(radii * np.sin(angles), -radii * np.cos(angles), strict=True)))


def crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A disc without the disc to its right."""
    return np.maximum(np.hypot(x, y) - 0.95, 0.75 - np.hypot(x - 0.5, y))


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A heart: two lobes and the kite below them."""
    lobes = np.hypot(np.abs(x) - 0.44, y + 0.35) - 0.5
    return np.minimum(lobes, polygon(x, y, [(-0.87, -0.1), (0.0, -0.45), (0.87, -0.1), (0.0, 1.0)]))


def arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """An arrow that points up."""
    head = polygon(x, y, [(0.0, -1.05), (0.8, -0.1), (-0.8, -0.1)])
    return np.minimum(head, box(x, y - 0.42, 0.24, 0.6))


def bars(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two upright bars."""
    return box(np.abs(x) - 0.5, y, 0.24, 0.9)


SHAPES: dict[str, Distance] = {
    shape.__name__: shape for shape in (disc, ring, square, triangle, cross, star, crescent, heart, arrow, bars)
}


def box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    """Signed distance to a rectangle around the origin."""
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def polygon(x: np.ndarray, y: np.ndarray, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Signed distance to a simple polygon: to its nearest edge; inside where a ray crosses an odd number of edges."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        inside ^= ((ay > y) != (by > y)) & ((px * ey < ex * py) == (ey < 0))
    return np.where(inside, -1, 1) * np.sqrt(nearest)


def draw(count: int, *, hardness: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` icons in random order: images uint8 (count, 3, 32, 32) and labels int64 (count,)."""
    # NumPy promises that the stream of RandomState never changes; float64 keeps rounding the same on every machine.
    random = np.random.RandomState([seed, 32])
    labels = random.permutation(np.arange(count) % len(SHAPES))
    images = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    for first in range(0, count, CHUNK):
        chunk = labels[first : first + CHUNK]
        images[first : first + CHUNK] = paint(chunk, random, hardness)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def paint(labels: np.ndarray, random: np.random.RandomState, hardness: float) -> np.ndarray:
    """uint8 (n, 3, 32, 32): background, strokes, then the shape of each label, then noise."""
    count = len(labels)
    ground, ink = colours(count, random)
    centre = SIZE / 2 + random.uniform(-8, 8, (2, count, 1, 1)) * hardness
    radius = 11 * (1 - 0.8 * hardness * random.uniform(0, 1, (count, 1, 1)))
    angle = random.uniform(-np.pi, np.pi, (count, 1, 1)) * hardness
    pixels = np.arange(SIZE) + 0.5
    dx, dy = pixels[None, None, :] - centre[0], pixels[None, :, None] - centre[1]
    x = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    y = (np.cos(angle) * dy - np.sin(angle) * dx) / radius
    distance = np.empty((count, SIZE, SIZE))
    for label, shape in enumerate(SHAPES.values()):
        chosen = labels == label
        distance[chosen] = shape(x[chosen], y[chosen]) * radius[chosen]
    canvas = np.broadcast_to(ground, (count, 3, SIZE, SIZE))
    canvas = strokes(canvas, random, hardness)
    canvas = mix(canvas, ink, distance)
    canvas = canvas + random.normal(0, 1, canvas.shape) * 50 * hardness
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def colours(count: int, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Two colours (n, 3, 1, 1) in 0..255 that differ by at least 80 in each of their channels."""
    ground = random.uniform(0, 255, (count, 3, 1, 1))
    step = random.uniform(80, 175, ground.shape)
    # One direction for the three channels, so that shape and ground also differ in brightness.
    darker = random.uniform(0, 1, (count, 1, 1, 1)) < ground.mean(1, keepdims=True) / 255
    ground = np.where(darker, 80 + ground * 175 / 255, ground * 175 / 255)
    return ground, np.clip(np.where(darker, ground - step, ground + step), 0, 255)


def strokes(canvas: np.ndarray, random: np.random.RandomState, hardness: float) -> np.ndarray:
    """Straight lines of random colour across the image, up to five, each there with probability `hardness`."""
    pixels = np.arange(SIZE) + 0.5
    count = len(canvas)
    for _ in range(5):
        angle, offset = random.uniform(0, np.pi, (count, 1, 1)), random.uniform(-14, 14, (count, 1, 1))
        colour, drawn = random.uniform(0, 255, (count, 3, 1, 1)), random.uniform(0, 1, (count, 1, 1)) < hardness
        across = np.sin(angle) * (pixels[None, None, :] - SIZE / 2) - np.cos(angle) * (pixels[None, :, None] - SIZE / 2)
        canvas = mix(canvas, colour, np.where(drawn, np.abs(across - offset) - 0.6, np.inf))
    return canvas


def mix(canvas: np.ndarray, colour: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """`colour` where `distance` (n, 32, 32) in pixels is negative, blended over one pixel at the edge."""
    coverage = np.clip(0.5 - distance, 0, 1)[:, None]
    return canvas + coverage * (colour - canvas)
