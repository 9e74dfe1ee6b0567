"""What a data set asks of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What a data set asks of a model: its kind ('images', 'text', 'chat') and the names of its classes."""

    kind: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ImageTask(Task):
    """A task over images of `shape` (C, H, W), with what the data set knows of its own pixels.

    `mean` and `std` are per channel, in 0..1; `augmentation` is 'none', 'crop' or 'crop_flip': what keeps a label true.
    """

    shape: tuple[int, int, int] = (3, 32, 32)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    augmentation: str = "none"
