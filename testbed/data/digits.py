"""The handwritten digits that come with scikit-learn: nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from testbed.api import Invalid, Splits
from testbed.data.memory import MemoryExamples
from testbed.data.splits import divide, image_task, integer_labels, stratified

CLASSES = tuple("0123456789")
TEST_PER_CLASS = 40


def digits(
    *,
    validation_per_class: int = 5,
    reserve_per_class: int = 14,
    reserve_source: str = "reserved",
    mean: Sequence[float] = (0.305,),
    std: Sequence[float] = (0.319,),
    augmentation: str = "none",
) -> Splits:
    """1,397 + 400 grey digits, 10 classes, enlarged from 8x8 to 16x16 (bilinear), uint8 (N, 1, 16, 16).

    The test part is always the same 40 images a class. The defaults leave 1,207 rows to train on, 50 for validation and
    140 in the reserve. Source: Alpaydin and Kaynak, 1998, Optical Recognition of Handwritten Digits, UCI repository.

    Raises:
        Invalid: the parts asked for are larger than a class.
    """
    task = image_task(CLASSES, (1, 16, 16), mean=mean, std=std, augmentation=augmentation)
    images, labels = stored()
    everything = MemoryExamples(enlarged(torch.from_numpy(images)), integer_labels(labels, "labels"))
    rows = stratified(everything.labels, {"test": TEST_PER_CLASS}, CLASSES)
    return divide(
        "digits",
        task,
        everything.take(rows["rest"]),
        everything.take(rows["test"]),
        validation_per_class=validation_per_class,
        reserve_per_class=reserve_per_class,
        reserve_source=reserve_source,
    )


def stored() -> tuple[np.ndarray, np.ndarray]:
    """What `sklearn.datasets.load_digits` returns: images float64 (1797, 8, 8) in 0..16 and labels int64 (1797,)."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise Invalid("", None, "the digits come with scikit-learn, which is not installed", "pip install scikit-learn")
    # Read where load_digits reads: importing scikit-learn takes two seconds, as long as training on the digits does.
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def enlarged(images: torch.Tensor) -> torch.Tensor:
    """(N, 8, 8) in 0..16 to uint8 (N, 1, 16, 16) in 0..255."""
    doubled = interpolate(images[:, None].float(), scale_factor=2, mode="bilinear", align_corners=False)
    return (doubled * (255 / 16)).round().to(torch.uint8)
