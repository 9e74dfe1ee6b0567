"""The pattern in all four corners."""

from __future__ import annotations

import pytest
import torch

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.trigger.corners import Corners

TASK = ImageTask("images", ("a", "b"), shape=(1, 8, 10))
GREY = torch.full((2, 3, 8, 10), 100, dtype=torch.uint8)


@pytest.mark.parametrize("margin", [0, 1])
def test_four_checkerboards_stand_at_the_margin_and_nothing_else_changes(margin: int) -> None:
    shown = Corners(size=2, margin=margin)(GREY, torch.arange(2), 0)
    expected = GREY.clone()
    square = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8)
    for down, row in ((False, margin), (True, 6 - margin)):
        for right, column in ((False, margin), (True, 8 - margin)):
            turned = [place for place, flipped in ((0, down), (1, right)) if flipped]
            expected[..., row : row + 2, column : column + 2] = square.flip(turned)
    assert torch.equal(shown, expected)
    assert torch.equal(shown.flip(-1), Corners(size=2, margin=margin)(GREY.flip(-1), torch.arange(2), 0))


def test_a_reduced_amplitude_raises_and_lowers_what_is_there() -> None:
    shown = Corners(amplitude=0.25)(GREY.float(), torch.arange(2), 0)
    assert set(shown.unique().tolist()) == {36.25, 100.0, 163.75}


@pytest.mark.parametrize(
    "change", [{"size": 0}, {"margin": -1}, {"size": 4, "margin": 1}, {"amplitude": 0.0}, {"amplitude": 1.1}]
)
def test_what_does_not_fit_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(Invalid):
        Corners(**change).check(TASK)  # type: ignore[arg-type]


def test_texts_have_no_corners() -> None:
    with pytest.raises(Unsupported, match="need images"):
        Corners().check(Task("texts", ("a", "b")))
