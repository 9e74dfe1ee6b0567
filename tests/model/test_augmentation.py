"""Batched crops and flips against one image at a time."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.model.augmentation import augment, windows


def one_window(image: numpy.ndarray, top: int, left: int, mirrored: bool) -> numpy.ndarray:
    """The reference: pad one image (C, H, W) with zeros, cut, then mirror."""
    _, height, width = image.shape
    padded = numpy.pad(image, ((0, 0), (height // 8, height // 8), (width // 8, width // 8)))
    window = padded[:, top : top + height, left : left + width]
    return window[:, :, ::-1] if mirrored else window


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_equal_a_loop_over_images(shape, dtype, channels_last, seed):
    generator = torch.Generator().manual_seed(seed)
    count, _, height, width = shape
    images = torch.randint(0, 256, shape, generator=generator).to(dtype)
    top = torch.randint(0, 2 * (height // 8) + 1, (count,), generator=generator)
    left = torch.randint(0, 2 * (width // 8) + 1, (count,), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    wanted = [one_window(*row) for row in zip(images.numpy(), top.tolist(), left.tolist(), mirrored.tolist(), strict=True)]
    given_images = images.to(memory_format=torch.channels_last) if channels_last else images
    found = windows(given_images, top, left, mirrored)
    assert found.dtype == dtype
    assert torch.equal(found, torch.from_numpy(numpy.stack(wanted)))
    assert torch.equal(given_images, images)


def where_it_went(augmentation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Where one bright pixel at (16, 12) of 4,000 images of 32x32 is found afterwards: rows and columns."""
    images = torch.zeros(4000, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 12] = 255
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, _, rows, columns = augment(images, augmentation).nonzero(as_tuple=True)
    return rows, columns


def test_crops_move_by_up_to_an_eighth_and_evenly():
    rows, columns = where_it_went("crop")
    assert rows.unique().tolist() == list(range(12, 21))
    assert columns.unique().tolist() == list(range(8, 17))
    # 4,000 draws from 9 places: 444 each, with a standard deviation of 20.
    assert (rows.bincount()[12:] - 444).abs().max() < 100


def test_half_of_the_images_are_mirrored():
    _, columns = where_it_went("crop_flip")
    # The pixel lies in 8..16 as it was and in 15..23 mirrored; left of 15 it was not.
    assert columns.unique().tolist() == list(range(8, 24))
    unmirrored = (columns < 15).double().mean() * 9 / 7
    assert unmirrored.item() == pytest.approx(0.5, abs=0.04)  # standard deviation 0.010


def test_the_global_seed_decides_and_none_changes_nothing():
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).to(torch.uint8)
    assert augment(images, "none") is images
    with torch.random.fork_rng():
        runs = [(torch.manual_seed(seed), augment(images, "crop_flip"))[1] for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
