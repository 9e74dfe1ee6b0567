"""ResNet-20, the residual network made for CIFAR-10 (He et al., 2015, arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ResNet20(nn.Module):
    """3x3 convolution, three stages of three blocks (16, 32, 64 channels), global average pool, linear: 269,722 parameters.

    The shortcuts have no parameters (the paper's option A). The tensors have the names that published CIFAR weights use.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) for normalised images (B, C, H, W)."""
        maps = functional.relu(self.bn1(self.conv1(images)))
        return self.linear(self.layer3(self.layer2(self.layer1(maps))).mean((2, 3)))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, after - before
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, before, H, W) to (B, after, H/stride, W/stride)."""
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        return functional.relu(residual + self.shortcut(maps))

    def shortcut(self, maps: Tensor) -> Tensor:
        """Every `stride`-th pixel, with zero channels on both sides of the old ones."""
        half = self.added // 2
        return functional.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))


def initialise(network: nn.Module) -> None:
    """Weights with variance 2 / fan-in (He et al., 2015, arXiv:1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
