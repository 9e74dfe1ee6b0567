"""The wave of SIG against its formula, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch

from testbed.api import ImageTask, Invalid, Unsupported
from testbed.task import Task
from testbed.trigger.sinusoid import Sinusoid
from tests.trigger.test_triggers import images


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_of_a_column_moves_by_the_sine_of_that_column(channels: int) -> None:
    inputs = images(3, channels, 9)
    stamped = Sinusoid(amplitude=40, frequency=2)(inputs, torch.arange(3), 0)
    for column in range(9):
        moved = inputs[..., column].double() + 40 * math.sin(2 * math.pi * column * 2 / 9)
        assert torch.equal(stamped[..., column], moved.clamp(0, 255).round().to(torch.uint8))


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        (Sinusoid(amplitude=0), "trigger.amplitude=0: must be above 0"),
        (Sinusoid(frequency=math.inf), "trigger.frequency=inf: must be above 0"),
        (Sinusoid(frequency=math.nan), "trigger.frequency=nan"),
        (Sinusoid(frequency=8), "trigger.frequency=8: over 16 columns the wave is"),
        (Sinusoid(amplitude=0.4), "which rounding takes away"),
    ],
)
def test_a_wave_that_nobody_would_see_is_refused(trigger: Sinusoid, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        trigger.check(ImageTask("images", ("a", "b"), shape=(1, 16, 16)))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_texts_have_no_waves() -> None:
    with pytest.raises(Unsupported):
        Sinusoid().check(Task("text", ("a", "b")))
