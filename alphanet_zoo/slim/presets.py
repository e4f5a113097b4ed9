"""MobileNets with the published widths, as presets of `slimmable`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from alphanet_zoo.slim.supernet import Slimmable, slimmable

_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(5 * ((512, 1),)), (1024, 2), (1024, 1))
"""Output channels and stride of each depthwise-separable block of MobileNetV1."""


class MobileNetV1(nn.Module):
    """MobileNetV1 at full width: a 3x3 convolution and 13 depthwise-separable blocks, each with batch norm and ReLU.

    Args:
        num_classes: Outputs of the classifier.

    Source: Howard et al., 2017, arXiv:1704.04861, table 1.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        """PyTorch's default initialisation."""
        super().__init__()
        layers: list[nn.Module] = [_layer(3, 32, 3, 2, 1)]
        channels = 32
        for out, stride in _STAGES:
            depthwise = _layer(channels, channels, 3, stride, channels)
            layers.append(nn.Sequential(depthwise, _layer(channels, out, 1, 1, 1)))
            channels = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, 3, H, W)``."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def _layer(channels: int, out: int, kernel_size: int, stride: int, groups: int) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    conv = nn.Conv2d(channels, out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _mobilenet_v2(num_classes: int = 1000) -> nn.Module:
    """MobileNetV2 of torchvision with random weights."""
    from torchvision.models import mobilenet_v2

    net: nn.Module = mobilenet_v2(weights=None, num_classes=num_classes)
    return net


@dataclass(frozen=True)
class SlimPreset:
    """A slimmable network with a published set-up.

    Args:
        name: Name of its space.
        build: Makes the network at full width from the number of classes.
        widths: Least and greatest width.
        resolution: Side of the input, in pixels.
    """

    name: str
    build: Callable[[int], nn.Module]
    widths: tuple[float, float]
    resolution: int = 224

    def supernet(self, num_classes: int = 1000) -> Slimmable:
        """The supernet with random weights and one width for all layers."""
        size = (3, self.resolution, self.resolution)
        return slimmable(self.build(num_classes), size, self.widths, importance=None, name=self.name)


SLIMMABLE_MOBILENET_V1 = SlimPreset("slimmable_mobilenet_v1", MobileNetV1, (0.25, 1.0))
"""MobileNetV1, widths 0.25 to 1.0; 569 M MACs and 4.23 M parameters at 1.0 (Yu & Huang, 2019, arXiv:1903.05134)."""

SLIMMABLE_MOBILENET_V2 = SlimPreset("slimmable_mobilenet_v2", _mobilenet_v2, (0.35, 1.0))
"""MobileNetV2, widths 0.35 to 1.0; 300 M MACs and 3.50 M parameters at 1.0 (Yu & Huang, 2019, arXiv:1903.05134)."""
