"""Images that cannot be read are found before anything is trained, once, and left out only where that was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testbed.api import Invalid
from testbed.data import soundness
from testbed.data.image_folder import image_folder
from testbed.words import Refused

FEW = {"size": 8, "validation_per_class": 1, "reserve_per_class": 1}
ON_DISK = {**FEW, "in_memory": False, "workers": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of six and three images; one of the training images of cats is torn, and one of the tests of dogs empty."""
    random = np.random.RandomState(0)
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.randint(0, 256, (10, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{number}.png")
    torn = tmp_path / "set" / "train" / "cat" / "2.png"
    torn.write_bytes(torn.read_bytes()[:60])
    (tmp_path / "set" / "test" / "dog" / "0.png").write_bytes(b"")
    return tmp_path / "set"


@pytest.mark.parametrize("how", [FEW, ON_DISK], ids=["memory", "disk"])
def test_bad_images_are_left_out_and_counted_only_where_asked(how: dict, root: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"train/cat/2\.png: cannot decode .*index 2.*data\.on_bad=skip"):
        image_folder(root, tmp_path / "cache", **how)
    splits = image_folder(root, tmp_path / "cache", **how, on_bad="skip")
    assert splits.left_out == 2
    assert len(splits.train) + len(splits.validation) + len(splits.reserve) == 11 and len(splits.test) == 5


def test_both_ways_of_reading_leave_the_same_rows(root: Path, tmp_path: Path) -> None:
    memory, disk = (image_folder(root, tmp_path / "cache", **how, on_bad="skip") for how in (FEW, ON_DISK))
    assert memory.train.digest == disk.train.digest and memory.test.digest == disk.test.digest
    (root / "train" / "cat" / "2.png").unlink()
    (root / "test" / "dog" / "0.png").unlink()
    without = image_folder(root, tmp_path / "cache", **FEW)
    assert without.train.digest == memory.train.digest and without.left_out == 0


def test_images_are_decoded_once_until_one_changes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    decode = soundness.read_image
    monkeypatch.setattr(soundness, "read_image", lambda path, **more: (looks.append(path), decode(path, **more))[1])
    image_folder(root, tmp_path / "cache", **ON_DISK, on_bad="skip")
    assert len(looks) == 18
    image_folder(root, tmp_path / "cache", **ON_DISK, on_bad="skip")
    assert len(looks) == 18
    Image.new("RGB", (9, 9)).save(root / "train" / "cat" / "2.png")
    assert image_folder(root, tmp_path / "cache", **ON_DISK, on_bad="skip").left_out == 1
    assert len(looks) == 18 + 12


def test_what_was_found_is_no_promise_where_the_memory_of_it_is_damaged(root: Path, tmp_path: Path) -> None:
    image_folder(root, tmp_path / "cache", **ON_DISK, on_bad="skip")
    for memo in (tmp_path / "cache").glob("sound-*.json"):
        assert json.loads(memo.read_text())["bad"]
        memo.write_text("{")
    assert image_folder(root, tmp_path / "cache", **ON_DISK, on_bad="skip").left_out == 2


def test_a_cache_that_cannot_be_written_is_a_matter_of_resources(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Refused, match=r"data\.cache=.*file: cannot be written .*; say data\.cache=DIR") as refused:
        image_folder(root, tmp_path / "file", **FEW, on_bad="skip")
    assert refused.value.code == 4 and (tmp_path / "file").read_text() == "mine"


def test_a_class_without_a_single_good_image_is_named(root: Path, tmp_path: Path) -> None:
    for path in (root / "train" / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(Invalid, match="cat"):
        image_folder(root, tmp_path / "cache", **FEW, on_bad="skip")
