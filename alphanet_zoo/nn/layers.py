"""Layers that run at their own size or at a smaller one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphanet_zoo.nn import kernels
from alphanet_zoo.nn.slicing import slice_to
from alphanet_zoo.nn.synced_norm import SyncedBatchNorm2d
from alphanet_zoo.space.shapes import BlockShape


def conv(layer: nn.Conv2d, x: Tensor, out_channels: int, *, kernel_size: int = 1, stride: int = 1) -> Tensor:
    """``layer`` with the leading ``out_channels`` and as many input channels as ``x`` has, ``(N, C, H, W)``.

    A depthwise layer (groups > 1) keeps one group a channel. Padding is ``kernel_size // 2``.
    """
    depthwise = layer.groups > 1
    weight = slice_to(layer.weight, (out_channels, 1 if depthwise else x.shape[1], kernel_size, kernel_size))
    bias = None if layer.bias is None else slice_to(layer.bias, (out_channels,))
    if depthwise and layer.training and bias is None and kernel_size in (3, 5, 7) and kernels.serve(x):
        return kernels.depthwise_conv(x, weight, stride)
    return F.conv2d(x, weight, bias, stride, kernel_size // 2, 1, out_channels if depthwise else 1)


def batch_norm(layer: nn.BatchNorm2d, x: Tensor, *, track: bool) -> Tensor:
    """``layer`` over the channels of ``x``, ``(N, C, H, W)``.

    In eval mode it uses its running statistics. In training mode it uses the batch's, and keeps them in its running
    statistics only where ``track`` says so (``x`` then has all its channels).
    """
    if track or not layer.training:
        normalised: Tensor = layer(x)
        return normalised
    channels = (x.shape[1],)
    weight, bias = slice_to(layer.weight, channels), slice_to(layer.bias, channels)
    if isinstance(layer, SyncedBatchNorm2d):
        return layer.with_weights(x, weight, bias)
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=layer.eps)


def norm_swish(layer: nn.BatchNorm2d, x: Tensor, *, track: bool) -> Tensor:
    """The swish of `batch_norm`."""
    if layer.training and not track and not isinstance(layer, SyncedBatchNorm2d) and kernels.serve(x):
        channels = (x.shape[1],)
        return kernels.norm_swish(x, slice_to(layer.weight, channels), slice_to(layer.bias, channels), layer.eps)
    return F.silu(batch_norm(layer, x, track=track))


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Drops whole samples of ``(N, C, H, W)`` with probability ``rate`` and scales the others by 1 / keep."""
    keep = 1.0 - rate
    mask = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep)
    return x * mask / keep


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite: global mean, 1x1, ReLU, 1x1, hard sigmoid, multiply.

    Source: docs/specification.md, section 3; Hu et al., 2018, arXiv:1709.01507.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        """Over ``channels`` channels, through ``squeezed``."""
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor, squeezed: int) -> Tensor:
        """``x`` of shape ``(N, C, H, W)``, scaled channel by channel."""
        gate = F.adaptive_avg_pool2d(x, 1)
        gate = F.relu(conv(self.conv_reduce, gate, squeezed))
        return x * F.hardsigmoid(conv(self.conv_expand, gate, x.shape[1]))


class MBConv(nn.Module):
    """An inverted-residual block in which every shape has a shortcut.

    Source: docs/specification.md, section 3.
    """

    conv_pw: nn.Conv2d | None
    bn1: nn.BatchNorm2d | None
    se: SqueezeExcite | None
    shortcut: nn.Conv2d | None

    def __init__(self, shape: BlockShape, *, has_shortcut: bool) -> None:
        """A block that runs at ``shape`` and at every smaller one; ``has_shortcut`` gives it the 1x1 shortcut."""
        super().__init__()
        mid = shape.mid_channels
        self.shape = shape
        self.conv_pw = nn.Conv2d(shape.in_channels, mid, 1, bias=False) if shape.expand else None
        self.bn1 = nn.BatchNorm2d(mid) if shape.expand else None
        kernel = shape.kernel_size
        self.conv_dw = nn.Conv2d(mid, mid, kernel, shape.stride, kernel // 2, groups=mid, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.se = SqueezeExcite(mid, shape.se_channels) if shape.se_channels else None
        self.conv_pwl = nn.Conv2d(mid, shape.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(shape.out_channels)
        nn.init.zeros_(self.bn3.weight)
        self.shortcut = nn.Conv2d(shape.in_channels, shape.out_channels, 1, bias=False) if has_shortcut else None

    def forward(self, x: Tensor, shape: BlockShape, *, track: bool, drop_path_rate: float = 0.0) -> Tensor:
        """Runs at ``shape`` on ``(N, C_in, H, W)``; gives ``(N, C_out, H', W')``.

        ``track`` says whether training keeps running statistics; ``drop_path_rate`` drops the residual branch.
        """
        residual = x
        if self.conv_pw is not None and self.bn1 is not None:
            residual = conv(self.conv_pw, residual, shape.mid_channels)
            residual = norm_swish(self.bn1, residual, track=track)
        residual = conv(self.conv_dw, residual, shape.mid_channels, kernel_size=shape.kernel_size, stride=shape.stride)
        residual = norm_swish(self.bn2, residual, track=track)
        if self.se is not None:
            residual = self.se(residual, shape.se_channels)
        residual = batch_norm(self.bn3, conv(self.conv_pwl, residual, shape.out_channels), track=track)
        if drop_path_rate > 0.0 and self.training:
            residual = drop_path(residual, drop_path_rate)
        return residual + self._shortcut(x, shape)

    def _shortcut(self, x: Tensor, shape: BlockShape) -> Tensor:
        """The input, pooled where the block strides, projected where the channels change."""
        if shape.stride == 2:
            x = F.avg_pool2d(x, 2, 2, (x.shape[-2] % 2, x.shape[-1] % 2))
        if shape.projects_shortcut:
            assert self.shortcut is not None
            x = conv(self.shortcut, x, shape.out_channels)
        return x


def resize_to(x: Tensor, resolution: int) -> Tensor:
    """Images ``(N, 3, H, W)`` at ``resolution`` pixels a side.

    Bicubic (a = -0.75), corners not aligned, no antialiasing.
    """
    if x.shape[-2:] == torch.Size((resolution, resolution)):
        return x
    return F.interpolate(x, size=(resolution, resolution), mode="bicubic", align_corners=False)


def shrink_to(x: Tensor, resolution: int) -> Tensor:
    """Images ``(N, 3, H, W)`` resized to ``resolution`` pixels a side if they are larger.

    Bicubic and antialiased, channels-last in memory.
    """
    if max(x.shape[-2:]) <= resolution:
        return x
    small = F.interpolate(x, size=(resolution, resolution), mode="bicubic", align_corners=False, antialias=True)
    return small.contiguous(memory_format=torch.channels_last)
