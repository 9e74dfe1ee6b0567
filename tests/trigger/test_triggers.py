"""Triggers against per-image references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from testbed.trigger.blend import Blend
from testbed.trigger.patch import Patch


def images(n: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 5),
    margin=st.integers(0, 3),
    corner=st.sampled_from(["bottom_right", "bottom_left", "top_right", "top_left"]),
    checkerboard=st.booleans(),
)
def test_patch_pixel_by_pixel(size: int, margin: int, corner: str, checkerboard: bool) -> None:
    inputs, side = images(3, 3, 9), 9
    pattern = "checkerboard" if checkerboard else "solid"
    stamped = Patch(size, corner, margin, (10, 20, 30), pattern)(inputs, torch.arange(3), 0)  # type: ignore[arg-type]
    expected = inputs.clone()
    for row in range(size):
        for column in range(size):
            y = margin + row if corner.startswith("top") else side - margin - size + row
            x = margin + column if corner.endswith("left") else side - margin - size + column
            odd = checkerboard and (row + column) % 2
            expected[:, :, y, x] = torch.tensor([245, 235, 225] if odd else [10, 20, 30], dtype=torch.uint8)
    assert torch.equal(stamped, expected)


@settings(max_examples=25, deadline=None)
@given(alpha=st.floats(0.01, 1.0), n=st.integers(1, 600), channels=st.sampled_from([1, 3]))
def test_blend_is_the_rounded_convex_combination(alpha: float, n: int, channels: int) -> None:
    inputs, trigger = images(n, channels, 5), Blend(alpha=alpha)
    pattern = trigger.pattern((channels, 5, 5)).double()
    exact = (1 - alpha) * inputs.double() + alpha * pattern
    stamped = trigger(inputs, torch.arange(n), 0)
    assert stamped.dtype == torch.uint8 and (stamped.double() - exact).abs().max() <= 0.5 + 1e-4
    assert (trigger(inputs.float(), torch.arange(n), 0).double() - exact).abs().max() < 1e-3


def test_noise_depends_on_its_seed_alone() -> None:
    one, other = Blend(pattern_seed=1).pattern((3, 8, 8)), Blend(pattern_seed=2).pattern((3, 8, 8))
    assert torch.equal(one, Blend(alpha=0.5, pattern_seed=1).pattern((3, 8, 8))) and not torch.equal(one, other)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_scaled_to_the_images(tmp_path: Path, channels: int) -> None:
    picture = tmp_path / "kitten.png"
    Image.fromarray(np.full((40, 30, 3), (200, 100, 50), dtype=np.uint8)).save(picture)
    pattern = Blend(picture=picture).pattern((channels, 8, 8))
    expected = [124.0] if channels == 1 else [200.0, 100.0, 50.0]  # ITU-R 601 luma: .299 R + .587 G + .114 B
    assert torch.equal(pattern, torch.tensor(expected).view(-1, 1, 1).expand(channels, 8, 8))
