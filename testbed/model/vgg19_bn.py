"""VGG-19 with batch normalisation, for small images."""

from __future__ import annotations

from torch import Tensor, nn

from testbed.api import Unreadable

CHANNELS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # of each stage: width, number of convolutions


class VGG19BN(nn.Module):
    """The sixteen 3x3 convolutions of VGG-19, each with batch normalisation, then one linear layer.

    Configuration E of Simonyan & Zisserman (2014, arXiv:1409.1556) with the normalisation of Ioffe & Szegedy (2015,
    arXiv:1502.03167). The single linear layer is usual for 32 pixels: 20,040,522 parameters for CIFAR-10. The tensors of
    `features` have the names of torchvision's `vgg19_bn`.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        if image_size < 32:
            advice = "choose model=small_cnn or model=resnet18"
            raise Unreadable(
                "network", type(self).__name__, f"five poolings need 32 pixels, and the images have {image_size}", advice
            )
        layers: list[nn.Module] = []
        before = in_channels
        for width, count in CHANNELS:
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(before, num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) for normalised images (B, C, H, W), averaged over what the poolings leave."""
        return self.linear(self.features(images).mean((2, 3)))
