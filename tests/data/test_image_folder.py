"""Image folders: which files are read, how they become pixels, and what is refused by name."""

from __future__ import annotations

import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from testbed.api import Batch, Invalid
from testbed.data.folder import FolderExamples, cover, read_image
from testbed.data.image_folder import image_folder

FEW = {"size": 8, "validation_per_class": 1, "reserve_per_class": 2}


def image(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of five training and two test images, and what is to be passed over."""
    for label, name in enumerate(("cat", "dog")):
        for part, count in (("train", 5), ("test", 2)):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for number in range(count):
                image(100 * label + number).save(tmp_path / "set" / part / name / f"{number}.png")
    (tmp_path / "set" / "train" / ".hidden").mkdir()
    (tmp_path / "set" / "train" / "cat" / ".thumbs.png").touch()
    (tmp_path / "set" / "train" / "cat" / "labels.csv").touch()
    return tmp_path / "set"


def test_folders_in_memory_and_on_disk_are_the_same(root: Path, tmp_path: Path) -> None:
    memory = image_folder(root, tmp_path / "cache", **FEW)
    disk = image_folder(root, tmp_path / "cache", **FEW, in_memory=False, workers=2)
    assert memory.task.classes == ("cat", "dog") and memory.task.shape == (3, 8, 8)
    for name, count in (("train", 4), ("validation", 2), ("reserve", 4), ("test", 4)):
        stored, lazy = getattr(memory, name), getattr(disk, name)
        assert len(stored) == len(lazy) == count and lazy.workers == 2
        assert stored.digest == lazy.digest  # an equal run, however its images are read
        some = torch.tensor([1, 0])
        assert stored.take(some).digest == lazy.take(some).digest != stored.digest
        batches = torch.arange(count).split(3)
        # Starting processes takes seconds, so that one part has to stand for all.
        processes = {"num_workers": 2, "multiprocessing_context": "forkserver"} if name == "train" else {}
        loader = DataLoader(lazy, batch_size=None, sampler=batches, **processes)
        for batch, indices in zip(loader, batches, strict=True):
            expected = stored[indices]
            assert isinstance(batch, Batch)
            assert all(torch.equal(read, wanted) for read, wanted in zip(batch, expected, strict=True))


def test_digest_follows_content_and_survives_pickling(root: Path, tmp_path: Path) -> None:
    def digest() -> str:
        return image_folder(root, tmp_path / "cache", **FEW, in_memory=False, workers=1).test.digest

    first = digest()
    assert first == digest()
    shutil.move(root, tmp_path / "moved")
    root = tmp_path / "moved"
    assert first == digest()
    splits = image_folder(root, tmp_path / "cache", **FEW, in_memory=False, workers=1)
    assert pickle.loads(pickle.dumps(splits.test)).digest == first
    image(7).save(root / "test" / "dog" / "0.png")
    assert first != digest()
    assert (
        image_folder(root, tmp_path / "cache", **FEW, channels=1).train.digest
        != image_folder(root, tmp_path, **FEW).train.digest
    )


def test_decoded_images_are_cached_until_a_file_changes(root: Path, tmp_path: Path) -> None:
    first = image_folder(root, tmp_path / "cache", **FEW)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert image_folder(root, tmp_path / "cache", **FEW).train.digest == first.train.digest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == stamps
    image(8).save(root / "test" / "dog" / "0.png")
    assert image_folder(root, tmp_path / "cache", **FEW).test.digest != first.test.digest


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes_of_8_bits_become_rgb_or_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image(0, mode=mode).save(path)
    assert read_image(path, channels=3, index=0).tobytes() == image(0, mode=mode).convert("RGB").tobytes()
    assert read_image(path, channels=1, index=0).tobytes() == image(0, mode=mode).convert("L").tobytes()


def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image(0, mode="P").save(tmp_path / "image.png", transparency=bytes(range(256)))
    assert read_image(tmp_path / "image.png", channels=3, index=0).tobytes() == image(0, mode="P").convert("RGB").tobytes()


def test_covering_keeps_the_centre() -> None:
    wide = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 12))
    np.testing.assert_array_equal(np.asarray(cover(wide, (2, 2))), [[5, 6], [17, 18]])
    # On a ramp, scaling reads the ramp at the centre of each new pixel, wherever the filter does not reach over the edge.
    ramp = Image.fromarray(np.add.outer(2 * np.arange(40), 3 * np.arange(50)).astype(np.uint8))
    scale = 40 / 8
    centres = (np.arange(8) + 0.5) * scale - 0.5
    expected = np.add.outer(2 * centres, 3 * (centres + 5))
    assert np.abs(np.asarray(cover(ramp, (8, 8))).astype(float) - expected)[1:-1, 1:-1].max() <= 1
    assert cover(ramp, (40, 50)) is ramp


def deep_colour(path: Path) -> None:
    """A PNG of 16 bits a channel in colour, which Pillow can read but not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(range(12)) for _ in range(2)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def truncated(path: Path) -> None:
    image(0, size=(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:500])


SPOILT = {
    "16-bit grey": (lambda path: Image.fromarray(np.full((4, 4), 999, dtype=np.uint16)).save(path), "mode I;16"),
    "16-bit colour": (deep_colour, "16 bits a channel"),
    "truncated": (truncated, "cannot decode"),
    "empty": (lambda path: path.write_bytes(b""), "cannot decode"),
    "text": (lambda path: path.write_text("not an image"), "cannot decode"),
    "huge": (lambda path: Image.new("1", (5001, 5000)).save(path), "25 megapixels"),
    "bomb": (lambda path: Image.new("1", (20000, 10000)).save(path), "25 megapixels"),
    "PostScript": (lambda path: image(0).save(path, format="EPS"), "cannot decode"),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_an_image_that_cannot_be_used_is_named(root: Path, tmp_path: Path, spoil: str) -> None:
    path = root / "train" / "dog" / "3.png"
    write, says = SPOILT[spoil]
    write(path)
    with pytest.raises(Invalid, match=says) as caught:
        image_folder(root, tmp_path / "cache", **FEW)
    assert caught.value.parameter == "root" and caught.value.value == path and "(index 8)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_float_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "0.tif")
    examples = FolderExamples(tmp_path, ("0.tif",), torch.tensor([0]), (1, 4, 4))
    with pytest.raises(Invalid, match="mode F"):
        examples[torch.tensor([0])]


@pytest.mark.parametrize(
    ("action", "place", "says"),
    [
        ("remove", "*/dog", "at least two classes"),
        ("remove", "train", "no folder train/"),
        ("remove", "train/dog/*", "no image in it"),
        ("remove", "test/*/*", "needs rows"),
        ("make", "train/dog/more", "a folder within"),
        ("make", "test/cow", "no such class"),
        ("link", "train/dog/9.png", "leads out"),
        ("link", "train/owl", "leads out"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(root: Path, tmp_path: Path, action: str, place: str, says: str) -> None:
    outside = tmp_path / "outside" / "owl"
    outside.mkdir(parents=True)
    image(0).save(outside / "9.png")
    for found in list(root.glob(place)) if action == "remove" else ():
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    if action == "make":
        (root / place).mkdir()
    elif action == "link":
        (root / place).symlink_to(outside / "9.png" if place.endswith("png") else outside)
    with pytest.raises(Invalid, match=says):
        image_folder(root, tmp_path / "cache", **FEW)


def test_links_within_the_root_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "train" / "dog" / "9.png").symlink_to(root / "train" / "dog" / "0.png")
    assert len(image_folder(root, tmp_path / "cache", **FEW).train) == 5


@pytest.mark.parametrize("change", [{"size": 0}, {"channels": 4}, {"workers": -1}, {"in_memory": False}])
def test_parameters_out_of_range_are_refused(root: Path, tmp_path: Path, change: dict) -> None:
    with pytest.raises(Invalid) as caught:
        image_folder(root, tmp_path, **{**FEW, **change})
    assert caught.value.parameter in (*change, "workers")


@pytest.mark.real_data
def test_real_jpeg_files(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "cifar10_jpeg"
    for part, count in (("train", 30), ("test", 5)):
        for place in sorted((source / part).iterdir()):
            (tmp_path / "set" / part / place.name).mkdir(parents=True)
            for path in sorted(place.iterdir())[:count]:
                shutil.copy(path, tmp_path / "set" / part / place.name)
    splits = image_folder(tmp_path / "set", tmp_path / "cache")
    assert splits.task.classes[3] == "3_cat" and len(splits.train) == 100 and len(splits.test) == 50
    first = np.asarray(Image.open(sorted((source / "test" / "0_airplane").iterdir())[0])).transpose(2, 0, 1)
    assert np.array_equal(splits.test.inputs[0].numpy(), first)
