"""Drawn glasses against a drawing point by point."""

from __future__ import annotations

import pytest
import torch

from testbed.api import ImageTask, Invalid, Task, Unsupported
from testbed.trigger.glasses import Glasses

ROWS = torch.arange(2)
IMAGES = torch.randint(0, 256, (2, 3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def covered(trigger: Glasses, y: float, x: float, height: int, width: int) -> float:
    """What covers one point, in pixels from the top and the left."""
    thick = trigger.thickness * width
    v = y - trigger.eye_row * height
    for eye in (width / 2 - trigger.eye_distance * width / 2, width / 2 + trigger.eye_distance * width / 2):
        power = 2 if trigger.shape == "round" else 4
        half_width, half_height = trigger.lens_width * width / 2, trigger.lens_height * height / 2
        if abs((x - eye) / (half_width - thick)) ** power + abs(v / (half_height - thick)) ** power <= 1:
            return trigger.tint
        if abs((x - eye) / half_width) ** power + abs(v / half_height) ** power <= 1:
            return 1.0
    return float(abs(v) <= thick / 2)


@pytest.mark.parametrize("trigger", [Glasses(), Glasses(shape="round", tint=0.5, eye_row=0.4, lens_width=0.3, thickness=0.06)])
def test_each_pixel_is_covered_by_the_mean_of_sixteen_points(trigger: Glasses) -> None:
    height, width = 40, 50
    points = torch.tensor(
        [[covered(trigger, (y + 0.5) / 4, (x + 0.5) / 4, height, width) for x in range(4 * width)] for y in range(4 * height)]
    )
    expected = points.view(height, 4, width, 4).mean((1, 3))
    # A point on the very curve may fall to either side: a sixteenth of a pixel.
    assert ((trigger.cover(height, width) - expected).abs() > 1e-6).sum() <= 4
    assert torch.equal(trigger.cover(height, width).flip(1), trigger.cover(height, width))


def test_pasted_glasses_replace_pixels_and_blended_ones_mix() -> None:
    cover = Glasses().cover(40, 50)
    pasted = Glasses(value=(7, 8, 9))(IMAGES, ROWS, 0)
    assert pasted.dtype == torch.uint8 and (pasted[:, 1][:, cover == 1] == 8).all()
    assert torch.equal(pasted[..., cover == 0], IMAGES[..., cover == 0]) and 0.05 < (cover > 0).float().mean() < 0.4
    blended = Glasses(alpha=0.2)(IMAGES.float(), ROWS, 0)
    assert torch.allclose(blended, IMAGES * (1 - 0.2 * cover), atol=1e-4)
    assert torch.equal(Glasses(alpha=0.2)(IMAGES, ROWS, 0).float(), blended.round())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha": 0.0}, "trigger.alpha=0.0"),
        ({"tint": 1.5}, "trigger.tint=1.5"),
        ({"eye_row": float("nan")}, "trigger.eye_row=nan"),
        ({"thickness": 1.0}, "trigger.thickness=1.0"),
        ({"value": (1, 2)}, "one or 3 of them"),
        ({"shape": "oval"}, "round or square"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        Glasses(**change).check(ImageTask("images", ("a", "b"), shape=(3, 40, 50)))
    assert said in str(refusal.value)
    with pytest.raises(Unsupported, match="need images"):
        Glasses().check(Task("text", ("a", "b")))
