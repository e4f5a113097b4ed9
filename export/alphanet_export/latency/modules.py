"""PyTorch modules of the parts of a network, with random weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from alphanet_zoo.nn.layers import MBConv
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.search.device import Part
from alphanet_zoo.space.shapes import BlockShape


class _Stem(nn.Module):
    """Convolution, batch norm and swish."""

    def __init__(self, width: int, stride: int) -> None:
        """Random weights."""
        super().__init__()
        self.conv_stem = nn.Conv2d(3, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, S, S)`` to the first block's input."""
        return F.silu(self.bn1(self.conv_stem(x)))


class _Head(nn.Module):
    """Last convolutions, pooling and classifier."""

    def __init__(self, last: int, features: int, width: int, classes: int) -> None:
        """Random weights."""
        super().__init__()
        self.conv_final, self.bn2 = nn.Conv2d(last, features, 1, bias=False), nn.BatchNorm2d(features)
        self.conv_head, self.classifier = nn.Conv2d(features, width, 1, bias=False), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The last block's output to logits."""
        x = F.adaptive_avg_pool2d(F.silu(self.bn2(self.conv_final(x))), 1)
        logits: Tensor = self.classifier(F.silu(self.conv_head(x)).flatten(1))
        return logits


def module_of(parts: Sequence[Part]) -> nn.Module:
    """The parts as one module in eval mode."""
    made: list[nn.Module] = []
    for part in parts:
        if part.kind == "stem":
            made.append(_Stem(*part.sizes[:2]))
        elif part.kind == "head":
            made.append(_Head(*part.sizes[:4]))
        else:
            inside, mid, out, squeezed, kernel, stride, expand, size = part.sizes
            shape = BlockShape(0, 0, inside, mid, out, kernel, stride, bool(expand), squeezed, size)
            made.append(MBConv(shape, has_shortcut=inside != out))
    return nn.Sequential(*made).eval().requires_grad_(False)


@torch.no_grad()
def folded(module: nn.Module) -> nn.Module:
    """The module with its batch norms made part of the convolutions before them, in place."""
    for each in list(module.modules()):
        for conv, norm in AlphaNet.followed_by.items():
            layer, normed = getattr(each, conv, None), getattr(each, norm, None)
            if isinstance(layer, nn.Conv2d) and isinstance(normed, nn.BatchNorm2d):
                setattr(each, conv, fuse_conv_bn_eval(layer, normed))
                setattr(each, norm, nn.Identity().eval())
    return module
