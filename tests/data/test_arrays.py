"""NumPy archives: what is read, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from testbed.api import Invalid
from testbed.data.arrays import arrays

GREY = np.arange(40 * 6 * 5, dtype=np.uint8).reshape(40, 6, 5)
COLOUR = np.random.RandomState(0).randint(0, 256, (40, 6, 5, 3)).astype(np.uint8)
LABELS = np.arange(40) % 2
FEW = {"validation_per_class": 2, "reserve_per_class": 3}


def written(folder: Path, name: str, **content: np.ndarray) -> Path:
    np.savez(folder / f"{name}.npz", **content)
    return folder / f"{name}.npz"


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (GREY, GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
    ],
)
def test_images_of_each_layout(tmp_path: Path, images: np.ndarray, expected: np.ndarray) -> None:
    path = written(tmp_path, "a", images=images, labels=LABELS.astype(np.uint8), pickled=np.array([{}], dtype=object))
    splits = arrays(path, str(path), **FEW)
    assert torch.equal(splits.test.inputs, torch.from_numpy(expected.copy()))
    assert splits.test.labels.tolist() == LABELS.tolist() and splits.task.classes == ("0", "1")
    assert splits.task.shape == expected.shape[1:] and len(splits.train) == 30
    assert arrays(path, path, classes=["cat", "dog"], **FEW).task.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"images": GREY}, "`images` and `labels`"),
        ({"images": GREY / 255, "labels": LABELS}, "float64, where uint8 is read"),
        ({"images": GREY[0], "labels": LABELS}, "not clearly"),
        ({"images": np.repeat(COLOUR, 2, axis=3), "labels": LABELS}, "not clearly"),
        ({"images": COLOUR[:, :3], "labels": LABELS}, "not clearly"),
        ({"images": GREY, "labels": LABELS[:-1]}, "40 images but 39 labels"),
        ({"images": GREY, "labels": LABELS / 2}, "whole numbers"),
        ({"images": GREY, "labels": np.eye(40, dtype=int)}, "several labels"),
        ({"images": GREY, "labels": np.array(["a"] * 40, dtype=object)}, "pickled objects"),
        ({"images": GREY, "labels": LABELS * 0}, "at least two classes"),
        ({"images": GREY[:0], "labels": LABELS[:0]}, "needs rows"),
    ],
)
def test_bad_content_is_refused(tmp_path: Path, content: dict, says: str) -> None:
    path = written(tmp_path, "bad", **content)
    with pytest.raises(Invalid, match=says) as caught:
        arrays(path, path, **FEW)
    assert caught.value.parameter == "train" and "\n" not in str(caught.value)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    good = written(tmp_path, "good", images=GREY, labels=LABELS)
    np.save(tmp_path / "single.npy", GREY)
    (tmp_path / "torn.npz").write_bytes(good.read_bytes()[:200])
    (tmp_path / "empty.npz").touch()
    for name in ("single.npy", "torn.npz", "empty.npz", "missing.npz"):
        with pytest.raises(Invalid) as caught:
            arrays(good, tmp_path / name, **FEW)
        assert caught.value.parameter == "test"
    with pytest.raises(Invalid, match="give both files one size"):
        arrays(good, written(tmp_path, "other", images=COLOUR, labels=LABELS), **FEW)


@pytest.mark.real_data
def test_real_cifar10_subset(data_root: Path) -> None:
    splits = arrays(data_root / "cifar10_subset" / "train.npz", data_root / "cifar10_subset" / "test.npz")
    assert [len(part) for part in (splits.train, splits.validation, splits.reserve, splits.test)] == [7868, 100, 100, 1017]
    assert splits.task.shape == (3, 32, 32) and len(splits.task.classes) == 10
    # The colours of the official training pixels: had axes been mixed up, the three would agree.
    mean = splits.train.inputs.float().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01)
