"""The pieces of a blended image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import ImageTask, Invalid
from testbed.trigger.blend import Blend
from testbed.trigger.pieces import Pieces

TASK = ImageTask("images", ("a", "b"), shape=(1, 10, 12))
BLACK = torch.zeros(6, 1, 16, 16)


def cells(trigger: Pieces, rows: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """bool (B, 4, 4): which cells of 4 by 4 pixels of a black image were changed anywhere."""
    shown = trigger(BLACK[: len(rows)], rows, seed)
    return (shown > 0).view(-1, 4, 4, 4, 4).permute(0, 1, 3, 2, 4).flatten(3).any(3)


@settings(deadline=None, max_examples=30)
@given(first=st.integers(0, 10_000), seed=st.integers(0, 2**31))
def test_exactly_half_of_sixteen_pieces_show_the_blend_and_the_others_nothing(first: int, seed: int) -> None:
    rows = first + torch.arange(6)
    images = torch.randint(0, 256, (6, 1, 16, 16), generator=torch.Generator().manual_seed(seed)).float()
    shown, whole = Pieces()(images, rows, seed), Blend(alpha=0.15)(images, rows, seed)
    drawn = cells(Pieces(), rows, seed)
    assert drawn.sum((1, 2)).tolist() == [8] * 6
    mask = drawn.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    assert torch.equal(shown, torch.where(mask, whole, images))


def test_rows_have_pieces_of_their_own_and_every_piece_is_as_likely() -> None:
    trigger = Pieces()
    drawn = torch.cat([cells(trigger, torch.arange(start, start + 6)) for start in range(0, 1200, 6)])
    assert len({tuple(one.flatten().tolist()) for one in drawn}) > 1000
    # A piece is in half of 1,200 rows: 600, standard deviation 17.
    assert ((drawn.sum(0) - 600).abs() < 5 * 17).all()


def test_all_pieces_are_the_blend_itself_and_stored_pixels_are_rounded() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    row = torch.tensor([3])
    assert torch.equal(Pieces(alpha=0.2, share=1.0)(images, row, 0), Blend(alpha=0.2)(images, row, 0))
    assert Pieces()(images, row, 0).dtype == torch.uint8


def test_a_grid_that_does_not_divide_the_image_covers_it_whole() -> None:
    shown = Pieces(alpha=1.0, pieces=9, share=1.0)(torch.full((1, 1, 10, 11), 300.0), torch.tensor([0]), 0)
    assert (shown <= 255).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pieces": 15}, "trigger.pieces=15: must be a square number"),
        ({"pieces": -1}, "trigger.pieces=-1"),
        ({"pieces": 121}, "11 by 11 does not fit into images of 10x12"),
        ({"share": 0.01}, "trigger.share=0.01"),
        ({"share": float("nan")}, "trigger.share=nan"),
        ({"alpha": 0.0}, "alpha"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        Pieces(**change).check(TASK)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
