"""A small convolutional network that trains in seconds on one core."""

from __future__ import annotations

from torch import Tensor, nn

from testbed.api import Invalid


class SmallCNN(nn.Module):
    """`depth` stages of [3x3 convolution, batch normalisation, ReLU], a max pool between, global average pool, linear.

    The stages have `width`, 2 `width` and then 4 `width` channels; `depth` None means 3 up to 28 pixels and 4 above. At the
    default width: 24,058 parameters for one channel and ten classes at 28 pixels, 61,338 for three channels at 32.
    """

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, *, width: int = 16, depth: int | None = None
    ) -> None:
        super().__init__()
        if width < 1:
            raise Invalid("network.width", width, "it must be at least 1", "the default is 16")
        depth = require_depth(depth, image_size)
        widths = [width, 2 * width, *[4 * width] * depth][:depth]
        for number, (before, after) in enumerate(zip([in_channels, *widths], widths, strict=False), start=1):
            self.add_module(f"stage{number}", stage(before, after))
        self.depth = depth
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) for normalised images (B, C, H, W)."""
        maps = self.stage1(images)
        for number in range(2, self.depth + 1):
            maps = self.get_submodule(f"stage{number}")(self.pool(maps))
        return self.linear(maps.mean((2, 3)))


def stage(before: int, after: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    # No bias: the normalisation that follows would take it away again.
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def require_depth(depth: int | None, image_size: int) -> int:
    """The number of stages, if each still has a pixel to read."""
    deepest = image_size.bit_length()  # each stage after the first sees half of the side
    chosen = min(3 if image_size <= 28 else 4, deepest) if depth is None else depth
    if not 1 <= chosen <= deepest:
        raise Invalid("network.depth", depth, f"images of {image_size} pixels allow 1 to {deepest} stages", "null chooses")
    return chosen
