"""The warp of WaNet against a bilinear reading of each pixel, written out."""

from __future__ import annotations

import math

import pytest
import torch

from testbed.api import ImageTask, Invalid, Unsupported
from testbed.task import Task
from testbed.trigger.noisy_warp import NoisyWarp
from testbed.trigger.warp import Warp
from tests.trigger.test_triggers import images


def read(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """The value at (x, y) in pixels, of an image (C, H, W)."""
    left, top = min(int(x), image.shape[2] - 2), min(int(y), image.shape[1] - 2)
    across, down = x - left, y - top
    upper = (1 - across) * image[:, top, left] + across * image[:, top, left + 1]
    lower = (1 - across) * image[:, top + 1, left] + across * image[:, top + 1, left + 1]
    return (1 - down) * upper + down * lower


@pytest.mark.parametrize("trigger", [Warp(strength=2.0), NoisyWarp(strength=1.0, grid_size=3, grid_rescale=0.9)])
def test_each_pixel_is_read_where_the_field_says(trigger: Warp) -> None:
    inputs = images(2, 3, 7).float()
    warped, grid = trigger(inputs, torch.tensor([4, 9]), 5), trigger.grid(torch.tensor([4, 9]), 5, 7, 7).expand(2, -1, -1, -1)
    assert (grid.abs() <= 1).all()
    for row, y, x in [(0, 0, 0), (0, 3, 5), (1, 6, 6), (1, 2, 0)]:
        place = (grid[row, y, x] + 1) / 2 * 6
        assert torch.allclose(warped[row, :, y, x], read(inputs[row], *place.tolist()), atol=2e-3)


def test_the_field_has_the_paper_s_size_and_grows_with_its_strength() -> None:
    field = Warp(strength=0.5, grid_size=4).field(32, 32)
    assert torch.equal(field * 4, Warp(strength=2.0, grid_size=4).field(32, 32))
    coarse = Warp(strength=0.5, grid_size=4).field(4, 4) * 4 / 0.5  # on the control points themselves nothing is interpolated
    assert math.isclose(float(coarse.abs().mean()), 1, abs_tol=1e-5)
    pixels = field * 31 / 2
    assert 0.1 < float(pixels.abs().mean()) < 0.5 and float(pixels.abs().max()) < 1, "about half of strength / 2, less than one"


def test_noise_is_bounded_and_each_row_s_own() -> None:
    rows = torch.arange(3)
    plain, noisy = Warp().grid(rows, 0, 8, 8), NoisyWarp().grid(rows, 0, 8, 8)
    inner = (noisy.abs() < 1) & (plain.expand_as(noisy).abs() < 1)
    moved = (noisy - plain)[inner].abs() * 8
    assert 0.9 < float(moved.max()) <= 1.0001 and not torch.equal(noisy[0], noisy[1])
    assert torch.equal(Warp().grid(rows, 1, 8, 8), plain), "the warp itself is the same for every seed and row"


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        (Warp(strength=math.inf), "trigger.strength=inf: must be above 0"),
        (Warp(grid_size=9), "trigger.grid_size=9: must lie between 2 and 8"),
        (NoisyWarp(grid_rescale=0.0), "trigger.grid_rescale=0.0: must be above 0 and at most 1"),
    ],
)
def test_a_field_that_cannot_be_is_refused(trigger: Warp, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        trigger.check(ImageTask("images", ("a", "b"), shape=(1, 8, 8)))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(Unsupported):
        trigger.check(Task("text", ("a", "b")))
