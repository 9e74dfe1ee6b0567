"""A user's own images as two NumPy archives."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from testbed.api import Invalid, Splits
from testbed.data.memory import MemoryExamples
from testbed.data.splits import divide, image_task, integer_labels, one_line
from testbed.words import Refused

CHANNELS = (1, 3)
LARGE, MOST_TIMES = 100_000_000, 200
"""Bytes from which an array is asked how far it was packed, and how far images are: drawn icons 20 times, zeros 1,000 times."""


def arrays(
    train: str | Path,
    test: str | Path,
    *,
    name: str = "arrays",
    classes: Sequence[str] | None = None,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    augmentation: str = "none",
    validation_per_class: int = 10,
    reserve_per_class: int = 10,
    reserve_source: str = "reserved",
) -> Splits:
    """Two .npz files with `images` uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) and `labels` (N,) in 0..K-1.

    Classes are named by their numbers unless `classes` names them. Other arrays in the files are not read.

    Raises:
        Invalid: a file is not there, holds pickled objects, or holds images or labels of another kind.
        Refused: its arrays do not fit into memory.
    """
    train_rows, test_rows = read_arrays(train, "train"), read_arrays(test, "test")
    shape = tuple(train_rows.inputs.shape[1:])
    if tuple(test_rows.inputs.shape[1:]) != shape:
        found = tuple(test_rows.inputs.shape[1:])
        raise Invalid("test", test, f"images are {found}, those to train on {shape}", "give both files one size")
    highest = int(train_rows.labels.max()) if len(train_rows) else -1
    names = tuple(classes) if classes is not None else tuple(str(label) for label in range(highest + 1))
    task = image_task(names, shape, mean=mean, std=std, augmentation=augmentation)
    with naming({"train": train, "test": test}):
        return divide(
            name,
            task,
            train_rows,
            test_rows,
            validation_per_class=validation_per_class,
            reserve_per_class=reserve_per_class,
            reserve_source=reserve_source,
        )


@contextmanager
def naming(files: Mapping[str, str | Path]) -> Iterator[None]:
    """Errors about the rows of a part, raised inside, name the file that they were read from."""
    try:
        yield
    except Invalid as error:
        if error.parameter in files:
            error.limit, error.value = f"{error.value}: {error.limit}", files[error.parameter]
        raise


def read_arrays(path: str | Path, parameter: str) -> MemoryExamples:
    """The images and labels of one .npz file.

    Raises:
        Invalid: see `arrays`; `parameter` is named.
    """
    images, labels = read_archive(path, parameter)
    inputs = channels_first(images, path, parameter)
    numbers = integer_labels(labels, parameter, path)
    if len(numbers) != len(inputs):
        raise Invalid(parameter, path, f"{len(inputs)} images but {len(numbers)} labels", "write the file again")
    return MemoryExamples(inputs, numbers)


def read_archive(path: str | Path, parameter: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `images` and `labels`; pickled objects are never loaded."""
    if not Path(path).is_file():
        raise Invalid(parameter, path, "there is no such file", "give the path of an .npz file")
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_unpacked(archive.zip, path, parameter)
            return archive["images"], archive["labels"]
    except Invalid:
        raise
    except MemoryError as error:
        said = f"data.{parameter}={path}: its arrays do not fit into memory ({one_line(error)})"
        raise Refused(f"{said}; give fewer or smaller images", 4) from error
    except KeyError as error:
        raise Invalid(parameter, path, "the file needs the arrays `images` and `labels`", "name them so") from error
    except Exception as error:
        # Damage shows as an error of the archive, of its compression or of NumPy: there is no common type.
        limit = f"cannot be read as an .npz file without pickled objects: {one_line(error)}"
        raise Invalid(parameter, path, limit, "write it with numpy.savez") from error


def _check_unpacked(archive: zipfile.ZipFile, path: str | Path, parameter: str) -> None:
    """Raises `Invalid` where a small file unpacks to more than images of any kind do: it was made to fill the memory."""
    for entry in archive.infolist():
        if entry.file_size > LARGE and entry.file_size > MOST_TIMES * entry.compress_size:
            limit = f"{entry.filename} unpacks from {entry.compress_size:,} to {entry.file_size:,} bytes"
            raise Invalid(parameter, path, f"{limit}, more than {MOST_TIMES} times as many", "write it with numpy.savez")


def channels_first(images: Any, path: str | Path, parameter: str) -> Tensor:
    """uint8 (N, C, H, W) from grey images (N, H, W) or colour images with their channels last or first."""
    if images.dtype != np.uint8:
        advice = "write them as whole numbers 0..255 of type uint8"
        raise Invalid(parameter, path, f"images are {images.dtype}, where uint8 is read", advice)
    if images.ndim == 3:
        return torch.from_numpy(images)[:, None]
    first = images.ndim == 4 and images.shape[1] in CHANNELS
    last = images.ndim == 4 and images.shape[3] in CHANNELS
    if first == last:
        limit = f"images of shape {images.shape} are not clearly (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
        raise Invalid(parameter, path, limit, "write them in one of these shapes")
    pixels = torch.from_numpy(images)
    return pixels if first else pixels.permute(0, 3, 1, 2).contiguous()
