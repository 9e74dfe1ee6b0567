"""Squeezing and dithering against loops over single pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import ImageTask, Invalid, Unsupported
from testbed.task import Task
from testbed.trigger.quantise import Quantise
from tests.trigger.test_triggers import images


@settings(max_examples=30, deadline=None)
@given(levels=st.integers(2, 255), channels=st.sampled_from([1, 3]))
def test_each_pixel_goes_to_the_nearest_level(levels: int, channels: int) -> None:
    inputs = images(2, channels, 5)
    squeezed = Quantise(levels)(inputs.float(), torch.arange(2), 0)
    allowed = torch.arange(levels).double() * 255 / (levels - 1)
    distance = (squeezed.double().unsqueeze(-1) - allowed).abs().min(-1).values
    assert (distance < 1e-3).all() and (squeezed - inputs).abs().max() <= 255 / (levels - 1) / 2 + 1e-3
    assert len(squeezed.unique()) <= levels


def dithered(image: torch.Tensor, levels: int) -> torch.Tensor:
    """Floyd and Steinberg's order: row by row, from left to right; image (H, W) in double precision."""
    work, (height, width), step = image.clone(), image.shape, 255 / (levels - 1)
    for y in range(height):
        for x in range(width):
            wanted = float(work[y, x])
            work[y, x] = min(max(round(wanted / step), 0), levels - 1) * step
            for below, beside, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + below < height and 0 <= x + beside < width:
                    work[y + below, x + beside] += (wanted - float(work[y, x])) * share / 16
    return work


@pytest.mark.parametrize(("height", "width"), [(6, 6), (3, 7), (7, 3), (1, 5), (5, 1)])
def test_dithering_many_pixels_at_once_is_dithering_one_by_one(height: int, width: int) -> None:
    image = images(1, 1, 7)[:, :, :height, :width].double()
    expected = dithered(image[0, 0], 4)
    assert torch.allclose(Quantise(4, dithering=True)._dithered(image)[0, 0], expected, atol=1e-9)


def test_dithering_keeps_the_brightness_that_squeezing_loses() -> None:
    grey = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    plain, spread = (Quantise(2, dithering)(grey, torch.arange(1), 0).float().mean() for dithering in (False, True))
    assert plain == 0 and abs(float(spread) - 100) < 10


@pytest.mark.parametrize("levels", [1, 256])
def test_what_changes_nothing_or_everything_is_refused(levels: int) -> None:
    with pytest.raises(Invalid, match=f"^trigger.levels={levels}: must lie between 2 and 255"):
        Quantise(levels).check(ImageTask("images", ("a", "b"), shape=(1, 8, 8)))
    with pytest.raises(Unsupported):
        Quantise().check(Task("text", ("a", "b")))
