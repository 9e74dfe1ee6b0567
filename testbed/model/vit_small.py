"""ViT-S for small images: torchvision's vision transformer with small patches (Dosovitskiy et al., 2020, arXiv:2010.11929)."""

from __future__ import annotations

import math

from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from testbed.api import Invalid


class ViTSmall(VisionTransformer):
    """A vision transformer (Dosovitskiy et al., 2020, arXiv:2010.11929) of the size called small.

    `depth` 12, `width` 384, 6 `heads` and an inner layer four times the width are those of DeiT-S (Touvron et al., 2020,
    arXiv:2012.12877, table 1). `patch` 4 in place of its 16 is for small images: 64 patches at 32 pixels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        *,
        patch: int = 4,
        depth: int = 12,
        width: int = 384,
        heads: int = 6,
    ) -> None:
        if patch < 1 or image_size % patch:
            raise Invalid("network.patch", patch, f"it must divide the {image_size} pixels of a side", "change the patch")
        if heads < 1 or width % heads:
            raise Invalid("network.heads", heads, f"it must divide the width, {width}", "change one of them")
        super().__init__(image_size, patch, depth, heads, width, 4 * width, num_classes=num_classes)
        self.conv_proj = nn.Conv2d(in_channels, width, patch, stride=patch)
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (in_channels * patch**2)))
        nn.init.zeros_(self.conv_proj.bias)
