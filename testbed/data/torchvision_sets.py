"""Data sets that torchvision knows how to find, check and download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from testbed.api import Invalid, Splits
from testbed.data.memory import MemoryExamples
from testbed.data.splits import divide, image_task, integer_labels, one_line
from testbed.words import nearest

DIGITS = tuple("0123456789")
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


class Kind(NamedTuple):
    """How torchvision names a data set and its parts."""

    name: str
    dataset: Callable[..., Any]
    train: dict[str, Any]
    test: dict[str, Any]
    classes: tuple[str, ...] | None = None  # None: the data set brings their names


BY_FLAG: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
BY_SPLIT: tuple[dict[str, Any], dict[str, Any]] = ({"split": "train"}, {"split": "test"})
KINDS = {
    "MNIST": Kind("mnist", datasets.MNIST, *BY_FLAG, DIGITS),
    "FashionMNIST": Kind("fashion_mnist", datasets.FashionMNIST, *BY_FLAG),
    "KMNIST": Kind("kmnist", datasets.KMNIST, *BY_FLAG),
    "CIFAR10": Kind("cifar10", datasets.CIFAR10, *BY_FLAG),
    "CIFAR100": Kind("cifar100", datasets.CIFAR100, *BY_FLAG),
    "SVHN": Kind("svhn", datasets.SVHN, *BY_SPLIT, DIGITS),
    "STL10": Kind("stl10", datasets.STL10, *BY_SPLIT, STL10_CLASSES),
}


def torchvision_set(
    kind: str,
    root: str | Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: str,
    validation_per_class: int,
    reserve_per_class: int,
    reserve_source: str = "reserved",
    download: bool = False,
) -> Splits:
    """MNIST, FashionMNIST, KMNIST, CIFAR10, CIFAR100, SVHN or STL10 (`kind`) from torchvision's layout under `root`.

    Images are uint8 (N, C, H, W) as published. The sources stand in the cards under `datasets/`.

    Raises:
        Invalid: there is no such kind; the files are not there or are damaged; the download failed.
    """
    if kind not in KINDS:
        raise Invalid("kind", kind, "there is no such data set", nearest(str(kind), tuple(KINDS)))
    known = KINDS[kind]
    train, test = (read(kind, Path(root), part, download=download) for part in (known.train, known.test))
    examples = [MemoryExamples(images(part), integer_labels(labels(part), "root")) for part in (train, test)]
    classes = known.classes or tuple(train.classes)
    task = image_task(classes, examples[0].inputs.shape[1:], mean=mean, std=std, augmentation=augmentation)
    return divide(
        known.name,
        task,
        *examples,
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )


def read(kind: str, root: Path, part: dict[str, Any], *, download: bool) -> Any:
    """One part as torchvision reads it; CIFAR's pickles are only opened where their published checksums agree."""
    name, dataset = KINDS[kind].name, KINDS[kind].dataset
    try:
        return dataset(root=str(root), download=download, **part)
    except Exception as error:
        # Torchvision raises what its downloader, unpacker or parser raises: there is no common type.
        card = f"see datasets/{name}.md"
        if download:
            raise Invalid(
                "download", True, f"{kind} could not be downloaded: {one_line(error)}", f"put its files there by hand, {card}"
            ) from error
        reason = f"{kind} is not there or is damaged: {one_line(error)}"
        raise Invalid("root", root, reason, f"say data.download=true, or put its files there, {card}") from error


def images(dataset: Any) -> Tensor:
    """uint8 (N, C, H, W) of a part, however torchvision keeps it."""
    pixels = torch.as_tensor(np.asarray(dataset.data))
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels if pixels.shape[1] == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def labels(dataset: Any) -> Any:
    """The labels of a part, which torchvision keeps under one of two names."""
    return dataset.labels if hasattr(dataset, "labels") else dataset.targets
