"""A patch at a place of its own on each row."""

from __future__ import annotations

import pytest
import torch

from testbed.api import ImageTask, Invalid
from testbed.trigger.scattered_patch import ScatteredPatch

BLACK = torch.zeros(400, 3, 10, 12, dtype=torch.uint8)


def corners(shown: torch.Tensor) -> list[tuple[int, int]]:
    """Top and left of what is not black."""
    found = [(image.sum(0) > 0).nonzero() for image in shown]
    assert all(len(pixels) == 16 and (pixels.max(0).values - pixels.min(0).values).tolist() == [3, 3] for pixels in found)
    return [tuple(pixels.min(0).values.tolist()) for pixels in found]  # type: ignore[misc]


def test_rows_have_places_of_their_own_whatever_the_batch_and_every_place_occurs() -> None:
    trigger, rows = ScatteredPatch(size=4), torch.arange(400)
    shown = trigger(BLACK, rows, 7)
    places = corners(shown)
    assert len(set(places)) == 7 * 9  # 400 rows over 63 places: each is missed with probability .002
    assert torch.equal(trigger(BLACK[:5], rows[[9, 3, 3, 0, 8]], 7), shown[[9, 3, 3, 0, 8]])
    assert corners(trigger(BLACK, rows, 8)) != places
    top, left = places[0]
    again = places.index((3, 5)), (3, 5)
    square = shown[0, :, top : top + 4, left : left + 4]
    assert torch.equal(square, shown[again[0], :, 3:7, 5:9]) and len(square.unique()) > 10


def test_a_patch_that_does_not_fit_is_refused() -> None:
    task = ImageTask("images", ("a", "b"), shape=(1, 10, 12))
    for wrong in (ScatteredPatch(size=11), ScatteredPatch(size=4, cells=5), ScatteredPatch(pattern_seed=-1)):
        with pytest.raises(Invalid, match="trigger"):
            wrong.check(task)
