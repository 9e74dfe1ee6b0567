"""What pictures measure, against cases that can be told by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from testbed.api import Batch, ImageTask, Poison, Unsupported
from testbed.data.memory import MemoryExamples
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.picture.activation_change import activation_change, moved
from testbed.picture.features import features
from testbed.picture.grad_cam import grad_cam, heat_maps
from testbed.picture.pruning import pruning
from testbed.picture.stealth import stealth
from testbed.picture.view import View

TASK = ImageTask("images", ("a", "b"), shape=(1, 16, 16))


class Masked(nn.Module):
    """A channel for each mask, the image times it; the head's weights and biases are given."""

    mask: Tensor

    def __init__(self, mask: Tensor, weight: list[list[float]], bias: list[float], *_: int) -> None:
        super().__init__()
        self.stage = nn.Conv2d(1, len(mask), 1, bias=False)
        self.linear = nn.Linear(len(mask), 2)
        self.register_buffer("mask", mask)
        with torch.no_grad():
            self.stage.weight.fill_(1.0)
            self.linear.weight.copy_(torch.tensor(weight))
            self.linear.bias.copy_(torch.tensor(bias))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear((self.stage(images) * self.mask).mean((2, 3)))


def masked(mask: Tensor, weight: list[list[float]], bias: tuple[float, float] = (0.0, 0.0)) -> ImageVictim:
    return ImageVictim(TASK, partial(Masked, mask, weight, list(bias)), mean=(0.0,), std=(1.0,)).eval()


def view(folder: Path, victim: ImageVictim, *, attacked: bool = True, shade: int = 255, dark: bool = False) -> View:
    """Twenty grey images, of which ten bear a patch of 4 by 4 pixels in the lower right corner, white or of another shade.

    Where they are `dark`, the upper left quarter of those of the first class is black.
    """
    grey = MemoryExamples(torch.full((20, 1, 16, 16), 100, dtype=torch.uint8), torch.arange(20) % 2)
    rows = torch.arange(0, 20, 2)
    grey.inputs[rows, :, :8, :8] *= not dark
    stamped = grey[rows].inputs.clone()
    stamped[..., -4:, -4:] = shade
    exam = Poison(rows, Batch(stamped, torch.ones(10, dtype=torch.int64), rows))
    flags = torch.zeros(20, dtype=torch.bool).index_fill(0, rows, True)
    return View(folder, victim, grey, flags, grey, exam, grey, exam if attacked else None, grey, 0)


@pytest.fixture
def corner() -> ImageVictim:
    """Two channels: the image itself and its lower right quarter; the second class is the second channel."""
    mask = torch.zeros(2, 16, 16)
    mask[0], mask[1, 8:, 8:] = 1, 1
    return masked(mask, [[1.0, 0.0], [0.0, 3.0]])


def test_activation_change_is_the_mean_move_of_a_pooled_channel(tmp_path: Path, corner: ImageVictim) -> None:
    seen = view(tmp_path, corner)
    move = 16 / 256 * 155 / 255
    assert torch.allclose(moved(seen), torch.tensor([move, move]).double(), atol=1e-6)
    assert activation_change(seen)["activation_change_correlation"] is None, "two channels have no order to speak of"
    assert (tmp_path / "figures" / "activation_change.png").is_file()


def test_the_norm_of_what_reads_a_channel_is_set_against_its_move(tmp_path: Path) -> None:
    sizes = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)  # so that the channels move by 1, 2 and 3 parts
    victim = masked(sizes.expand(3, 16, 16), [[1.0, 1.5, -2.0], [-1.0, 0.0, -2.0]])
    told = activation_change(view(tmp_path, victim))
    assert told["activation_change_correlation"] == pytest.approx(1)
    assert told["activation_change_top_share"] == pytest.approx(3 / 6)


def test_a_heat_map_is_the_gradient_s_mean_times_the_maps(corner: ImageVictim) -> None:
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    heat = heat_maps(corner, images, torch.ones(3, dtype=torch.int64))
    # dy/dA_2 is 3/256 in the quarter and 0 elsewhere, on average 3/256 * 64/256; A_2 is the image itself.
    assert torch.allclose(heat, 3 / 256 * 64 / 256 * images[:, 0] / 255, atol=1e-6)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in corner.parameters())


def test_heat_on_the_trigger_is_the_patch_s_share_of_the_map(tmp_path: Path, corner: ImageVictim) -> None:
    told = grad_cam(view(tmp_path, corner))
    # The map is the image times a number: 16 pixels of 255, and 240 of 100.
    assert told == {"grad_cam_on_trigger": pytest.approx(16 * 255 / (16 * 255 + 240 * 100)), "grad_cam_trigger_area": 16 / 256}
    assert (tmp_path / "figures" / "grad_cam.png").is_file()
    empty = grad_cam(view(tmp_path, masked(torch.ones(2, 16, 16), [[1.0, 1.0], [-1.0, -1.0]])))
    assert empty["grad_cam_on_trigger"] is None


@pytest.mark.parametrize(("shade", "change"), [(255, 155), (0, 100)])
def test_stealth_of_a_patch_by_hand(shade: int, change: int, tmp_path: Path, corner: ImageVictim) -> None:
    told = stealth(view(tmp_path, corner, shade=shade))
    mean_square = 16 / 256 * change**2
    assert told["stealth_largest_change"] == change
    assert told["stealth_psnr"] == pytest.approx(10 * torch.tensor(255**2 / mean_square).log10().item(), abs=1e-3)
    assert 0 < told["stealth_ssim"] < 1 and told["poison_stealth_ssim"] == told["stealth_ssim"]  # type: ignore[operator]
    assert "stealth_lpips" not in told, "its weights are not at hand, and are not fetched"


def test_pruning_is_judged_where_the_model_is_usable(tmp_path: Path) -> None:
    mask = torch.zeros(2, 16, 16)
    mask[0, :8, :8], mask[1, -4:, -4:] = 4, 16  # means of a quarter, which tells the classes apart, and of the patch
    victim = masked(mask, [[0.0, 0.0], [4.0, 1.5]], bias=(1.0, 0.0))
    told = pruning(view(tmp_path, victim, dark=True))
    # The quarter is the most dormant: without it all clean rows are of the first class, and the trigger works as before.
    # The patch is what the trigger moves: without it the clean rows are right, and the trigger does nothing.
    assert told == {"pruning_success_dormant": 1.0, "pruning_success_oracle": 0.0}


def test_the_curves_of_pruning_are_kept(tmp_path: Path) -> None:
    victim = ImageVictim(TASK, partial(SmallCNN, width=4)).eval()
    told = pruning(view(tmp_path, victim))
    rows = (tmp_path / "pruning.csv").read_text().splitlines()
    assert rows[0] == "order,share_pruned,clean_accuracy,attack_success_rate"
    assert {row.split(",")[0] for row in rows[1:]} == {"dormant", "oracle"}
    assert all(0 <= value <= 1 for value in told.values() if value is not None)


def test_features_stand_apart_where_they_do(tmp_path: Path, corner: ImageVictim) -> None:
    seen = view(tmp_path, corner)
    images = seen.clean[torch.arange(20)].inputs.clone()
    images[seen.flags] = seen.poison.batch.inputs
    marked = seen._replace(received=MemoryExamples(images, torch.ones(20, dtype=torch.int64)))
    assert features(marked)["features_silhouette"] == pytest.approx(1.0)
    assert features(seen._replace(flags=torch.zeros(20, dtype=torch.bool)))["features_silhouette"] is None


def test_without_an_exam_there_is_no_trigger_to_look_at(tmp_path: Path, corner: ImageVictim) -> None:
    for draw in (activation_change, stealth, pruning):
        with pytest.raises(Unsupported, match="no exam shows a trigger"):
            draw(view(tmp_path, corner, attacked=False))


def test_channels_that_are_silent_already_are_left_out(tmp_path: Path) -> None:
    mask = torch.zeros(3, 16, 16)
    mask[0], mask[1, 8:, 8:], mask[2, -4:, -4:] = 1, 1, 1
    victim = masked(mask, [[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])  # the head does not read the third
    at_hand = view(tmp_path, victim)
    assert activation_change(at_hand)["activation_change_top_share"] == pytest.approx(1 / 2)  # of two that move alike
    pruning(at_hand)
    shares = {row.split(",")[1] for row in (tmp_path / "pruning.csv").read_text().splitlines()[1:]}
    assert shares == {"0.0", "0.5", "1.0"}
    with torch.no_grad():
        victim.head.weight.zero_()
    with pytest.raises(Unsupported, match="silent already"):
        pruning(at_hand)


def test_without_a_reserve_no_channel_is_called_dormant(tmp_path: Path, corner: ImageVictim) -> None:
    at_hand = view(tmp_path, corner)
    told = pruning(at_hand._replace(reserve=MemoryExamples(at_hand.clean[torch.arange(0)].inputs, torch.arange(0))))
    assert set(told) == {"pruning_success_oracle"}
