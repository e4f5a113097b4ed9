"""Networks with a width per model: MobileNets and EfficientNet-Lite0, as presets of `slimmable`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

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


_LITE_STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip
"""Expansion, output channels, blocks, stride of the first block and kernel size of each stage of EfficientNet-Lite0."""


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 at full width: EfficientNet-B0 with ReLU6 and without squeeze-and-excite.

    Convolutions are padded as TensorFlow's ``SAME``, so that the published weights fit.

    Args:
        num_classes: Outputs of the classifier.

    Attributes:
        pretrained_cfg: Mean and deviation of the images that the published weights expect.

    Source: Tan & Le, 2019, arXiv:1905.11946, table 1.
    """

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def __init__(self, num_classes: int = 1000) -> None:
        """PyTorch's default initialisation."""
        super().__init__()
        self.stem = _lite_layer(3, 32, 3, stride=2)
        blocks, channels = list[nn.Module](), 32
        for expansion, out, depth, stride, kernel_size in _LITE_STAGES:
            for i in range(depth):
                blocks.append(_LiteBlock(channels, out, expansion, stride if i == 0 else 1, kernel_size))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = _lite_layer(channels, 1280, 1)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, 3, H, W)``."""
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(x))).mean((2, 3)))
        return logits


class _LiteBlock(nn.Module):
    """An inverted residual block: expansion, depthwise convolution, projection."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int, kernel_size: int) -> None:
        """Random weights."""
        super().__init__()
        inner = channels * expansion
        self.layers = nn.Sequential()
        if expansion > 1:
            self.layers.append(_lite_layer(channels, inner, 1))
        self.layers.append(_lite_layer(inner, inner, kernel_size, stride=stride, groups=inner))
        self.layers.append(_lite_layer(inner, out, 1, activation=False))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, C, H, W)`` to ``(N, C', H', W')``."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class _SameConv2d(nn.Conv2d):
    """A convolution padded with zeros as TensorFlow's ``SAME``: the odd pixel is at the bottom and on the right."""

    def forward(self, input: Tensor) -> Tensor:
        """From ``(N, C, H, W)`` to ``(N, C', ceil(H / stride), ceil(W / stride))``."""
        margins = []
        for axis in (1, 0):  # F.pad begins with the last axis.
            size, stride = input.shape[2 + axis], self.stride[axis]
            margin = max((-(-size // stride) - 1) * stride + self.kernel_size[axis] - size, 0)
            margins += [margin // 2, margin - margin // 2]
        return super().forward(F.pad(input, margins))


def _lite_layer(
    channels: int, out: int, kernel_size: int, *, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and, with ``activation``, ReLU6."""
    kind, padding = (nn.Conv2d, kernel_size // 2) if stride == 1 else (_SameConv2d, 0)
    layers: list[tuple[str, nn.Module]] = [
        ("conv", kind(channels, out, kernel_size, stride, padding, groups=groups, bias=False)),
        ("norm", nn.BatchNorm2d(out, eps=1e-3)),
    ]
    return nn.Sequential(OrderedDict([*layers, ("activation", nn.ReLU6(inplace=True))] if activation else layers))


def _mobilenet_v2(num_classes: int = 1000) -> nn.Module:
    """MobileNetV2 of torchvision with random weights."""
    from torchvision.models import mobilenet_v2

    net: nn.Module = mobilenet_v2(weights=None, num_classes=num_classes)
    return net


@dataclass(frozen=True)
class SlimPreset:
    """A slimmable network and its widths.

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

SLIMMABLE_EFFICIENTNET_LITE0 = SlimPreset("slimmable_efficientnet_lite0", EfficientNetLite0, (0.35, 1.0))
"""EfficientNet-Lite0, widths 0.35 to 1.0; 385 M MACs and 4.65 M parameters at 1.0."""
