"""ResNet-18 with a stem for small images."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet


class ResNet18(ResNet):
    """torchvision's ResNet-18 (He et al., 2015, arXiv:1512.03385), with the stem that is usual for CIFAR.

    A 3x3 convolution of stride 1 in place of the 7x7 of stride 2, and no max pool: 11,173,962 parameters for CIFAR-10.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
