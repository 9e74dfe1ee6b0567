"""Four patches, of which each row shows its own."""

from __future__ import annotations

import pytest
import torch

from testbed.api import ImageTask, Invalid, Unsupported
from testbed.task import Task
from testbed.trigger.patches import Patches
from tests.trigger.test_triggers import images

CORNERS = ((slice(4, 8), slice(4, 8)), (slice(0, 4), slice(0, 4)), (slice(0, 4), slice(4, 8)), (slice(4, 8), slice(0, 4)))


def test_each_row_shows_one_patch_at_its_own_opacity_and_nothing_else() -> None:
    inputs, trigger, shown = images(200, 3, 8), Patches(), set()
    pattern = trigger.pattern(8, 8).double()
    stamped = trigger(inputs, torch.arange(200), 3)
    for row in range(200):
        explained = []
        for patch, (place, opacity) in enumerate(zip(CORNERS, trigger.opacities, strict=True)):
            expected = inputs[row].double()
            expected[:, *place] = (1 - opacity) * expected[:, *place] + opacity * pattern[place]
            if (stamped[row].double() - expected).abs().max() <= 0.5001:
                explained.append(patch)
        assert len(explained) == 1
        shown.add(explained[0])
    assert shown == {0, 1, 2, 3}


def test_the_four_patches_differ() -> None:
    pattern = Patches().pattern(8, 8)
    parts = [pattern[place] for place in CORNERS]
    assert all(not torch.equal(one, other) for place, one in enumerate(parts) for other in parts[:place])
    assert parts[0].tolist() == [[255, 0, 255, 0], [0, 255, 0, 255], [255, 0, 255, 0], [0, 255, 0, 255]]
    assert parts[1].tolist() == [[255] * 4, [255, 0, 0, 255], [255, 0, 0, 255], [255] * 4]


def test_two_patches_at_full_opacity_are_the_same_for_every_row() -> None:
    stamped = Patches(opacities=(1, 0, 1, 0), shown=2)(images(5, 1, 8), torch.arange(5), 0)
    pattern = Patches().pattern(8, 8)
    for shown in stamped:
        assert torch.equal(shown[0][CORNERS[0]].float(), pattern[CORNERS[0]])
        assert torch.equal(shown[0][CORNERS[2]].float(), pattern[CORNERS[2]])
    assert torch.equal(stamped[:, :, 4:, :4], images(5, 1, 8)[:, :, 4:, :4]), "a patch of opacity 0 is not there"


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        (Patches(size=5), "trigger.size=5: must lie between 1 and 4"),
        (Patches(opacities=(0.5, 0.2)), "trigger.opacities=[0.5, 0.2]: must be four numbers"),
        (Patches(opacities=(1, 0, 1, 0), shown=3), "trigger.shown=3: must lie between 1 and 2"),
    ],
)
def test_patches_that_cannot_be_drawn_are_refused(trigger: Patches, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        trigger.check(ImageTask("images", ("a", "b"), shape=(1, 8, 9)))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(Unsupported):
        trigger.check(Task("text", ("a", "b")))
