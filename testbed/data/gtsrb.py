"""German traffic signs, split without cutting the films that the frames come from."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from testbed.api import Invalid, Splits
from testbed.data import folder
from testbed.data.cache import cached_tensors, digest_of, file_digests
from testbed.data.folder import channels_first, read_image
from testbed.data.memory import MemoryExamples
from testbed.data.splits import divide, image_task, integer_labels, one_line

SIZE = 32
SPEED_LIMITS = tuple(f"speed limit {speed}" for speed in (20, 30, 50, 60, 70, 80))
OTHER_SIGNS = (
    "end of speed limit 80,speed limit 100,speed limit 120,no overtaking,no overtaking by lorries,"
    "priority at next crossing,priority road,give way,stop,no vehicles,no lorries,no entry,general danger,"
    "bend to the left,bend to the right,double bend,uneven road,slippery road,road narrows on the right,road works,"
    "traffic signals,pedestrians,children crossing,cyclists crossing,ice or snow,wild animals,end of all limits,"
    "turn right ahead,turn left ahead,ahead only,straight on or right,straight on or left,keep right,keep left,"
    "roundabout,end of no overtaking,end of no overtaking by lorries"
)
CLASSES = SPEED_LIMITS + tuple(OTHER_SIGNS.split(","))


def gtsrb(
    root: str | Path,
    cache: str | Path,
    *,
    download: bool = False,
    mean: Sequence[float] = (0.34, 0.312, 0.321),
    std: Sequence[float] = (0.272, 0.261, 0.267),
    augmentation: str = "crop",
    validation_per_class: int = 5,
    reserve_per_class: int = 10,
    reserve_source: str = "reserved",
) -> Splits:
    """Traffic signs, 43 classes, from torchvision's layout under `root`, resized to uint8 (N, 3, 32, 32).

    Training frames come in tracks, films of one sign; a track goes to one part whole, so that the parts of the training
    rows hold at least the rows asked for. The images are decoded once and kept in `cache` under the digest of the files.
    Source: Stallkamp, Schlipsing, Salmen and Igel, 2012, Neural Networks 32.

    Raises:
        Invalid: the files are not there, cannot be decoded, or the download failed.
    """
    task = image_task(CLASSES, (3, SIZE, SIZE), mean=mean, std=std, augmentation=augmentation)
    base = Path(root) / "gtsrb"
    if download:
        fetch(Path(root))
    train_files, test_files = found(Path(root), training_files), found(Path(root), test_files_of)
    names = [name.rsplit("_", 1)[0] for name, _ in train_files]
    return divide(
        "gtsrb",
        task,
        decoded(base, train_files, Path(cache)),
        decoded(base, test_files, Path(cache)),
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
        groups=torch.from_numpy(np.unique(names, return_inverse=True)[1]),
    )


def fetch(root: Path) -> None:
    """Let torchvision download what is missing."""
    try:
        for split in ("train", "test"):
            datasets.GTSRB(root=str(root), split=split, download=True)
    except Exception as error:
        # Torchvision raises what its downloader or unpacker raises: there is no common type.
        advice = "put its files there by hand, see datasets/gtsrb.md"
        raise Invalid("download", True, f"GTSRB could not be downloaded: {one_line(error)}", advice) from error


def found(root: Path, listing: Callable[[Path], list[tuple[str, int]]]) -> list[tuple[str, int]]:
    """The files of a part, and their labels."""
    try:
        return listing(root / "gtsrb")
    except (OSError, KeyError, ValueError) as error:
        advice = "say data.download=true, or put its files there, see datasets/gtsrb.md"
        raise Invalid("root", root, f"GTSRB is not there or is damaged: {one_line(error)}", advice) from error


def training_files(base: Path) -> list[tuple[str, int]]:
    """(path relative to `base`, label) of each training image: a folder for each class, named by its number."""
    files = []
    for label in sorted(os.listdir(base / "GTSRB" / "Training")):
        place = Path("GTSRB") / "Training" / label
        if (base / place).is_dir():
            names = sorted(name for name in os.listdir(base / place) if name.endswith(".ppm"))
            files += [((place / name).as_posix(), int(label)) for name in names]
    return files


def test_files_of(base: Path) -> list[tuple[str, int]]:
    """(path relative to `base`, label) of each test image, as the table of the official test set says."""
    with (base / "GT-final_test.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, delimiter=";", skipinitialspace=True))
    return [(f"GTSRB/Final_Test/Images/{Path(row['Filename']).name}", int(row["ClassId"])) for row in rows]


def decoded(base: Path, files: Sequence[tuple[str, int]], cache: Path) -> MemoryExamples:
    """The images of these files, decoded once and then read from `cache`."""
    names = [name for name, _ in files]
    labels = integer_labels(np.array([label for _, label in files], dtype=np.int64), "root")

    def decode() -> dict[str, Tensor]:
        images = np.empty((len(names), 3, SIZE, SIZE), dtype=np.uint8)
        for index, name in enumerate(names):
            image = read_image(base / name, channels=3, index=index)
            # Squeezed to a square rather than cut, as published results are.
            images[index] = channels_first(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return {"inputs": torch.from_numpy(images)}

    try:
        contents = file_digests(base, names, cache)
    except OSError as error:
        raise Invalid("root", base, f"GTSRB is damaged: {one_line(error)}", "see datasets/gtsrb.md") from error
    sources = (Path(source).read_bytes() for source in (__file__, folder.__file__))
    key = digest_of(PIL.__version__, *sources, *contents)
    return MemoryExamples(cached_tensors(cache, f"gtsrb-{key[:32]}", decode)["inputs"], labels)
