"""PreAct ResNet-18: normalisation and activation before each convolution (He et al., 2016, arXiv:1603.05027)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from testbed.api import Invalid


class PreActResNet18(nn.Module):
    """3x3 convolution, four stages of two blocks, batch normalisation and ReLU, global average pool, linear.

    The stages have `width`, 2, 4 and 8 times `width` channels: 11,172,170 parameters for CIFAR-10 at the default 64. The
    final normalisation and ReLU are the paper's; some benchmarks, BackdoorBench among them, leave them out (1,024 parameters
    fewer), as `final_norm` False does.
    """

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, *, width: int = 64, final_norm: bool = True
    ) -> None:
        super().__init__()
        if width < 1:
            raise Invalid("network.width", width, "it must be at least 1", "the paper's is 64")
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.layer1 = stage(width, width, 1)
        self.layer2 = stage(width, 2 * width, 2)
        self.layer3 = stage(2 * width, 4 * width, 2)
        self.layer4 = stage(4 * width, 8 * width, 2)
        self.bn = nn.BatchNorm2d(8 * width) if final_norm else None
        self.linear = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) for normalised images (B, C, H, W)."""
        maps = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        last = maps if self.bn is None else functional.relu(self.bn(maps))
        return self.linear(last.mean((2, 3)))


def stage(before: int, after: int, stride: int) -> nn.Sequential:
    """Two blocks, of which the first changes the size."""
    return nn.Sequential(PreActBlock(before, after, stride), PreActBlock(after, after, 1))


class PreActBlock(nn.Module):
    """a = relu(bn(x)); conv(relu(bn(conv(a)))) + x, with a 1x1 convolution of a in place of x where the size changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        changes = stride > 1 or before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, before, H, W) to (B, after, H/stride, W/stride)."""
        active = functional.relu(self.bn1(maps))
        residual = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return residual + (maps if self.shortcut is None else self.shortcut(active))
