"""The data sets that need no download: digits and icons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from testbed.api import Invalid
from testbed.data.digits import digits, enlarged
from testbed.data.icons import SHAPES, icons, polygon


def test_digits_are_1397_and_400_of_known_pixels() -> None:
    splits = digits()
    assert [len(part) for part in (splits.train, splits.validation, splits.reserve, splits.test)] == [1207, 50, 140, 400]
    assert splits.test.labels.bincount().tolist() == [40] * 10
    assert splits.train.inputs.dtype == torch.uint8 and splits.task.shape == tuple(splits.train.inputs.shape[1:])
    everything = torch.cat([part.inputs for part in (splits.train, splits.validation, splits.reserve, splits.test)])
    ordered = sorted(bytes(image) for image in everything.numpy())
    assert ordered == sorted(bytes(image) for image in enlarged(torch.from_numpy(load_digits().images)).numpy())
    assert splits.train.digest == digits().train.digest
    assert digits(reserve_source="held_out").test.labels.bincount().tolist() == [26] * 10


def test_enlarging_is_bilinear_between_pixel_centres() -> None:
    image = torch.zeros(1, 8, 8)
    image[0, 0, 0] = 16
    # Centres lie at 1/4 and 3/4 of a pixel: at the border the nearest pixel counts whole.
    expected = 255 * np.outer([1, 0.75, 0.25], [1, 0.75, 0.25])
    assert np.abs(enlarged(image)[0, 0, :3, :3].numpy() - expected).max() <= 0.5
    assert enlarged(image)[0, 0, 3:].sum() == 0


def test_icons_are_the_same_every_time_and_cached(tmp_path: Path) -> None:
    small = {"train_size": 400, "test_size": 100, "validation_per_class": 5, "reserve_per_class": 5}
    splits = icons(tmp_path / "a", **small)
    assert splits.train.labels.bincount().tolist() == [30] * 10 and splits.test.labels.bincount().tolist() == [10] * 10
    assert splits.task.classes == tuple(SHAPES)
    (written,) = (tmp_path / "a").iterdir()
    stamp = written.stat().st_mtime_ns
    again, elsewhere = icons(tmp_path / "a", **small), icons(tmp_path / "b", **small)
    assert written.stat().st_mtime_ns == stamp
    assert splits.train.digest == again.train.digest == elsewhere.train.digest
    assert splits.test.digest == elsewhere.test.digest
    other = icons(tmp_path / "a", **small, hardness=0.5)
    assert other.train.digest != splits.train.digest


def test_icons_are_the_published_ones(tmp_path: Path) -> None:
    # A change of a single pixel is another data set: results before and after could not be compared.
    splits = icons(tmp_path, train_size=200, test_size=20, validation_per_class=1, reserve_per_class=1)
    assert splits.train.digest[:16] == "bac62b0a5959e3a2"


def test_a_damaged_cache_is_drawn_again(tmp_path: Path) -> None:
    small = {"train_size": 100, "test_size": 20, "validation_per_class": 1, "reserve_per_class": 1}
    digest = icons(tmp_path, **small).train.digest
    (written,) = tmp_path.iterdir()
    content = bytearray(written.read_bytes())
    for damaged in (content[:-1], content[:100_000] + bytes([content[100_000] ^ 1]) + content[100_001:], b""):
        written.write_bytes(damaged)
        assert icons(tmp_path, **small).train.digest == digest
        assert written.stat().st_size == len(content)


def test_every_shape_differs_from_every_other_however_it_is_turned() -> None:
    pixels = (np.arange(48) + 0.5) / 20 - 1.2
    x, y = np.meshgrid(pixels, pixels)
    masks = {name: shape(x, y) < 0 for name, shape in SHAPES.items()}
    for name, mask in masks.items():
        for other, shape in SHAPES.items():
            if other != name:
                for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
                    turned = shape(x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)) < 0
                    assert (mask & turned).sum() / (mask | turned).sum() < 0.9, (name, other)


def test_distance_to_a_polygon_against_a_square() -> None:
    x, y = np.random.RandomState(0).uniform(-2, 2, (2, 500))
    outside = np.hypot(np.maximum(np.abs(x) - 1, 0), np.maximum(np.abs(y) - 1, 0))
    inside = np.minimum(np.maximum(np.abs(x), np.abs(y)) - 1, 0)
    for corners in ([(-1, -1), (1, -1), (1, 1), (-1, 1)], [(-1, 1), (1, 1), (1, -1), (-1, -1)]):
        np.testing.assert_allclose(polygon(x, y, corners), outside + inside, atol=1e-12)


@pytest.mark.parametrize("change", [{"hardness": 1.5}, {"hardness": float("nan")}, {"train_size": 5}, {"test_size": 0}])
def test_icons_out_of_range_are_refused(tmp_path: Path, change: dict) -> None:
    with pytest.raises(Invalid) as caught:
        icons(tmp_path, **change)
    assert caught.value.parameter in change
