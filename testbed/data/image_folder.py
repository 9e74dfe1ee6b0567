"""A user's own images: one folder for each class."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from testbed.api import Invalid, Splits
from testbed.data.cache import cached_tensors
from testbed.data.folder import EXTENSIONS, LARGEST_PIXELS, FolderExamples, rows_digest
from testbed.data.memory import MemoryExamples
from testbed.data.soundness import sound
from testbed.data.splits import divide, image_task
from testbed.words import Refused

MOST_WORKERS = 128


def image_folder(
    root: str | Path,
    cache: str | Path,
    *,
    name: str = "image_folder",
    size: int = 32,
    channels: int = 3,
    in_memory: bool = True,
    workers: int = 0,
    on_bad: Literal["fail", "skip"] = "fail",
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    augmentation: str = "none",
    validation_per_class: int = 10,
    reserve_per_class: int = 10,
    reserve_source: str = "reserved",
) -> Splits:
    """Images `root/train/<class>/*` and `root/test/<class>/*`, as uint8 (N, channels, size, size).

    In memory they are decoded once and kept in `cache` under the digest of the files; otherwise they are decoded each
    time, by `workers` processes, and once before that, to find those that cannot be. `on_bad` 'skip' leaves these out, and
    counts them in `left_out`. Classes are numbered in the order of their sorted names. Names that begin with a dot
    and files that are not images by their ending are passed over.

    Raises:
        Invalid: a folder is not there or empty, the parts differ in their classes, a link leads out of `root` or nowhere, or
            an image cannot be used.
        Refused: the images do not fit into memory, or the cache cannot be written.
    """
    check_reading(size, channels, in_memory=in_memory, workers=workers)
    base = Path(root)
    classes = class_names(base, "train")
    unknown = sorted(set(class_names(base, "test")) - set(classes))
    if unknown:
        raise Invalid(
            "root", base / "test" / unknown[0], "the training part has no such class", "give both parts the same classes"
        )
    task = image_task(classes, (channels, size, size), mean=mean, std=std, augmentation=augmentation)
    files = [
        listed(base, part, classes, shape=(channels, size, size), workers=workers, cache=Path(cache))
        for part in ("train", "test")
    ]
    left_out = 0
    if on_bad == "skip" or not in_memory:
        looked = [sound(part, Path(cache), on_bad=on_bad) for part in files]
        files, left_out = [part for part, _ in looked], sum(count for _, count in looked)
    train, test = (decoded(part, Path(cache)) if in_memory else part for part in files)
    splits = divide(
        name,
        task,
        train,
        test,
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )
    return replace(splits, left_out=left_out)


def check_reading(size: int, channels: int, *, in_memory: bool, workers: int) -> None:
    """Refuse sizes that no image can have, and a number of processes that does not fit the way of reading."""
    if size < 1:
        raise Invalid("size", size, "images are at least 1 pixel wide", "give their side in pixels, such as 32")
    if size * size > LARGEST_PIXELS:
        raise Invalid("size", size, f"images have at most {LARGEST_PIXELS // 1_000_000} megapixels", "give a smaller side")
    if channels not in (1, 3):
        raise Invalid("channels", channels, "images are grey (1) or RGB (3)", "choose one of them")
    if workers < (0 if in_memory else 1):
        # The rest of the testbed reads into memory whatever asks for no process.
        raise Invalid("workers", workers, "images that stay on disk are read by 1 process or more", "say data.workers=2")
    if workers > MOST_WORKERS:
        raise Invalid("workers", workers, f"at most {MOST_WORKERS} processes read", "as many as there are processors will do")


def class_names(root: Path, part: str) -> tuple[str, ...]:
    """The sorted names of the class folders of a part."""
    base = root / part
    if not base.is_dir():
        raise Invalid(
            "root", root, f"there is no folder {part}/ in it", "it needs train/ and test/, with one folder for each class"
        )
    names = sorted(entry.name for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise Invalid("root", base, "there is no class folder in it", "give each class a folder")
    return tuple(names)


def listed(
    root: Path, part: str, classes: Sequence[str], *, shape: tuple[int, int, int], workers: int, cache: Path
) -> FolderExamples:
    """The image files of a part, ordered by class and name."""
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        names = image_names(root, Path(part) / name)
        if part == "train" and not names:
            raise Invalid("root", root / part / name, "there is no image in it", f"images end with {', '.join(EXTENSIONS)}")
        paths += names
        labels += [label] * len(names)
    return FolderExamples(root, tuple(paths), torch.tensor(labels, dtype=torch.int64), shape, workers, cache)


def image_names(root: Path, place: Path) -> list[str]:
    """The sorted paths, relative to `root`, of the images in its folder `place`; none where there is no such folder."""
    if not (root / place).is_dir():
        return []
    check_inside(root, root / place)
    names = []
    for entry in sorted(os.scandir(root / place), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if Path(entry.path).is_dir():
            raise Invalid("root", entry.path, "a folder within the folder of a class", "move its images up, or take it away")
        if entry.name.lower().endswith(EXTENSIONS):
            if entry.is_symlink():
                check_inside(root, Path(entry.path))
            if not Path(entry.path).is_file():  # of a pipe or a device nobody knows when it ends
                limit = "no file: a link that leads nowhere or to itself, a pipe or a device"
                raise Invalid("root", entry.path, limit, "take it away")
            names.append((place / entry.name).as_posix())
    return names


def check_inside(root: Path, path: Path) -> None:
    """Refuse a path whose links lead out of `root`."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):  # which a link to itself does not stop
        raise Invalid("root", path, f"a link that leads out of {root}", "copy the files into it")


@dataclass(frozen=True, eq=False)
class Decoded(MemoryExamples):
    """Image files that were decoded into memory; `contents` are the SHA-256 of each when it was.

    The digest is that of the same files read each time, so that the way of reading changes no key.
    """

    contents: tuple[str, ...]

    def take(self, indices: Tensor) -> Decoded:
        """The chosen rows, int64 (n,), copied into examples of their own."""
        rows = super().take(indices)
        return Decoded(rows.inputs, rows.labels, tuple(self.contents[index] for index in indices.tolist()))

    @cached_property
    def digest(self) -> str:
        """That of the files."""
        return rows_digest(self.inputs.shape[1:], self.contents, self.labels)


def decoded(examples: FolderExamples, cache: Path) -> Decoded:
    """The same examples, decoded into memory once and then read from `cache`."""

    def decode() -> dict[str, Tensor]:
        try:
            return {"inputs": examples[torch.arange(len(examples))].inputs}
        except Invalid as error:
            error.advice += ", or say data.on_bad=skip"
            raise
        except MemoryError as error:
            needed = len(examples) * math.prod(examples.shape) / 1e9
            limit = f"{len(examples)} images of this size take {needed:,.1f} GB of memory, which this machine has not"
            raise Refused(f"data.size={examples.shape[1]}: {limit}; say data.in_memory=false data.workers=2", 4) from error

    contents = examples.contents()
    key = rows_digest(examples.shape, contents, examples.labels)
    return Decoded(cached_tensors(cache, f"images-{key[:32]}", decode)["inputs"], examples.labels, contents)
