"""Queries that are changed before they are answered: where ShrinkPad puts them, and what a codec leaves of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from testbed.api import ImageTask, Invalid, Unsupported
from testbed.defence.jpeg import JPEG, Compressed
from testbed.defence.shrink_and_pad import ShrinkAndPad, ShrunkAndPadded, places
from tests.defence.small_images import RESOURCES, TEXTS, untrained

MANY = torch.randint(0, 256, (400, 3, 16, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_an_image_is_shrunk_and_stands_somewhere_on_black() -> None:
    shown = ShrunkAndPadded(0.125, 7)(MANY)
    top, left = places(MANY, 2, 3, 7)
    small = functional.interpolate(MANY.float(), (14, 21), mode="bilinear", antialias=True)
    for place in range(0, 400, 57):
        expected = functional.pad(small[place], (int(left[place]), 3 - int(left[place]), int(top[place]), 2 - int(top[place])))
        assert torch.allclose(shown[place], expected)
    # All places are as likely: 400 / 12 = 33 at each; of 8 seeds the fewest were 22, the most 49.
    counts = (top * 4 + left).bincount(minlength=12)
    assert counts.min() > 15 and counts.max() < 60
    assert not torch.equal(top, places(MANY, 2, 3, 8)[0])


@pytest.mark.parametrize("change", [ShrunkAndPadded(0.125, 0), Compressed(75)])
def test_an_answer_depends_on_the_image_alone(change: Callable[[Tensor], Tensor]) -> None:
    whole, kept = change(MANY), MANY.clone()
    assert torch.equal(whole[5:9], change(MANY[5:9])) and torch.equal(whole.flip(0), change(MANY.flip(0)))
    assert torch.equal(change(MANY.float() + 0.3), whole) or isinstance(change, ShrunkAndPadded)
    assert torch.equal(MANY, kept) and change(MANY[:0]).shape == (0, 3, 16, 24)
    assert whole.shape == MANY.shape and whole.min() >= 0 and whole.max() <= 255


def test_what_is_shrunk_has_a_gradient() -> None:
    image = MANY[:2].float().requires_grad_()
    ShrunkAndPadded(0.125, 0)(image).sum().backward()
    assert image.grad is not None and float(image.grad.sum()) == pytest.approx(2 * 3 * 14 * 21, rel=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_codec_is_a_real_one(channels: int) -> None:
    file = io.BytesIO()
    pixels = MANY[0, :channels].permute(1, 2, 0).numpy()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=60)
    expected = torch.from_numpy(numpy.array(Image.open(file))).reshape(16, 24, channels).permute(2, 0, 1)
    assert torch.equal(Compressed(60)(MANY[:1, :channels])[0], expected)


def test_the_victim_answers_what_it_is_shown() -> None:
    victim, inputs = untrained().eval(), RESOURCES.train[torch.arange(20)].inputs
    for defence in (ShrinkAndPad(0.25), JPEG(5)):
        defence.check(RESOURCES)
        guarded = defence.at_inference(victim, RESOURCES).eval()
        shown = guarded.change(inputs)  # type: ignore[operator]
        assert torch.equal(guarded(inputs), victim(shown)) and not torch.equal(guarded(inputs), victim(inputs))
        assert torch.equal(guarded.answers(inputs), victim.answers(shown))
        assert torch.equal(guarded.features(inputs, "stage1"), victim.features(shown, "stage1"))


def test_what_cannot_work_is_refused() -> None:
    for defence in (ShrinkAndPad(0.125), JPEG(75)):
        with pytest.raises(Unsupported, match="needs images"):
            defence.check(TEXTS)
    four = replace(RESOURCES, task=ImageTask("images", ("a", "b"), shape=(4, 16, 16)))
    with pytest.raises(Unsupported, match="1 or 3 channels"):
        JPEG(75).check(four)
    for wrong in (ShrinkAndPad(0.01), ShrinkAndPad(0.99), ShrinkAndPad(float("nan")), JPEG(0), JPEG(101)):
        with pytest.raises(Invalid):
            wrong.check(RESOURCES)
