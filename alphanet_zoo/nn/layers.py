"""Layers of a supernet, which run at their own size or at a smaller one, and the block that is made of them.

A static net has torch's own `Conv2d`, `BatchNorm2d` and `Linear`, and calls them. A supernet has the sliced ones below.
A block passes sizes only if they are to be applied; None means that every layer runs at its own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphanet_zoo.nn.cpu_kernels import operators
from alphanet_zoo.nn.gpu_kernels import operators as gpu_operators
from alphanet_zoo.nn.recompute import recomputed
from alphanet_zoo.nn.slicing import slice_to
from alphanet_zoo.space.shapes import BlockShape


class SlicedConv2d(nn.Conv2d):
    """A convolution that also runs with its leading channels and the centre of its kernel.

    Attributes:
        compiled: Use the operators of `alphanet_zoo.nn.cpu_kernels` if they support the input.
    """

    compiled = False

    def forward(self, x: Tensor, out_channels: int | None = None, kernel_size: int | None = None) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, out_channels, H', W')``.

        Args:
            x: The map; its channels are the leading input channels.
            out_channels: Output channels; None: all.
            kernel_size: Side of the kernel; None: the layer's own.
        """
        out_channels, kernel_size = out_channels or self.out_channels, kernel_size or self.kernel_size[0]
        return sliced_conv(self, x, out_channels, kernel_size, compiled=self.compiled and self.training)


class BorrowedConv2d(SlicedConv2d):
    """A static net's convolution while the net's ``kernels`` are compiled."""

    compiled = True


class SlicedLinear(nn.Linear):
    """A linear layer that also takes its leading input features."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` with at most ``in_features`` features to ``(N, out_features)``."""
        return sliced_linear(self, x)


class SlicedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that also runs over its leading channels.

    In training mode it normalises by the batch's statistics and keeps none. In eval mode it uses its running ones, and
    takes all its channels.

    Attributes:
        compiled: Use the operators of `alphanet_zoo.nn.cpu_kernels` if they support the input.
        tracks: Whether training at its own size keeps running statistics; see `alphanet_zoo.nn.synced_norm`.
    """

    compiled = False
    tracks = False

    def forward(self, x: Tensor, *, swish: bool = False) -> Tensor:
        """``(N, C, H, W)`` normalised, and its swish if asked for: one operator computes both."""
        if not self.training:
            y: Tensor = super().forward(x)
            return F.silu(y) if swish else y
        return sliced_norm(self, x, swish=swish, compiled=self.compiled)

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``(N, C, H, W)`` normalised by its own statistics, with ``weight`` and ``bias`` ``(C,)``."""
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)


def sliced_conv(layer: nn.Conv2d, x: Tensor, out_channels: int, kernel_size: int, *, compiled: bool = False) -> Tensor:
    """``layer`` with its leading ``out_channels`` and as many input channels as ``x`` has, ``(N, C, H, W)``.

    A depthwise layer (groups > 1) keeps one group per channel. Padding is ``kernel_size // 2``.
    """
    depthwise = layer.groups > 1
    weight = slice_to(layer.weight, (out_channels, 1 if depthwise else x.shape[1], kernel_size, kernel_size))
    bias = None if layer.bias is None else slice_to(layer.bias, (out_channels,))
    if compiled and depthwise and bias is None and kernel_size in operators.KERNEL_SIZES and operators.fits(x):
        return operators.depthwise_conv(x, weight, layer.stride[0], kernel_size // 2)
    if x.is_cuda and not torch.compiler.is_compiling():
        if depthwise and bias is None and gpu_operators.fits(x, kernel_size):
            return gpu_operators.depthwise_conv(x, weight, layer.stride[0], kernel_size // 2)
        if not depthwise and kernel_size == 1 and layer.stride == (1, 1):
            return gpu_operators.pointwise_conv(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, kernel_size // 2, 1, out_channels if depthwise else 1)


def sliced_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer`` with as many input features as ``x`` has, ``(N, C)``."""
    return F.linear(x, slice_to(layer.weight, (layer.out_features, x.shape[1])), layer.bias)


def sliced_norm(layer: nn.BatchNorm2d, x: Tensor, *, swish: bool, compiled: bool = False) -> Tensor:
    """``layer`` over the channels of ``x``, ``(N, C, H, W)``, by the batch's statistics, none of which are kept."""
    channels = (x.shape[1],)
    weight, bias = slice_to(layer.weight, channels), slice_to(layer.bias, channels)
    if swish and compiled and operators.fits(x):
        return operators.norm_swish(x, weight, bias, layer.eps)
    if isinstance(layer, SlicedBatchNorm2d):
        y = layer.normalise(x, weight, bias)
    else:
        y = F.batch_norm(x, None, None, weight, bias, training=True, eps=layer.eps)
    return F.silu(y) if swish else y


def run_conv(layer: nn.Conv2d, x: Tensor, out_channels: int | None, kernel_size: int = 1) -> Tensor:
    """Calls a convolution; ``out_channels=None`` runs it at its own size.

    torch's own layers cannot run at a smaller size, so their weights are sliced without calling them.
    """
    if out_channels is None:
        return cast(Tensor, layer(x))
    if isinstance(layer, SlicedConv2d):
        return cast(Tensor, layer(x, out_channels, kernel_size))
    return sliced_conv(layer, x, out_channels, kernel_size)


def run_norm(layer: nn.BatchNorm2d, x: Tensor, *, own: bool, swish: bool = True) -> Tensor:
    """Calls a batch norm, and applies swish; ``own`` runs it at its own size. As `run_conv`."""
    if not own and isinstance(layer, SlicedBatchNorm2d) and not layer.tracks:
        return cast(Tensor, layer(x, swish=swish))
    if not own and layer.training:
        return sliced_norm(layer, x, swish=swish)
    return F.silu(layer(x)) if swish else cast(Tensor, layer(x))


def use_compiled(net: nn.Module, compiled: bool) -> None:
    """Sets whether the layers of ``net`` use the compiled CPU operators in training.

    In a static net the depthwise convolutions, where most of the gain is, take the class `BorrowedConv2d` meanwhile;
    their tensors, names and hooks stay.
    """
    for layer in net.modules():
        if type(layer) is BorrowedConv2d or (type(layer) is nn.Conv2d and layer.groups > 1):
            layer.__class__ = BorrowedConv2d if compiled else nn.Conv2d
        elif isinstance(layer, SlicedConv2d | SlicedBatchNorm2d):
            layer.compiled = compiled


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Drops whole samples of ``(N, C, H, W)`` with probability ``rate`` and scales the others by 1 / keep."""
    keep = 1.0 - rate
    mask = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep)
    return x * mask / keep


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite: global mean, 1x1, ReLU, 1x1, hard sigmoid, multiply.

    Source: docs/specification.md, section 3; Hu et al., 2018, arXiv:1709.01507.
    """

    def __init__(self, channels: int, squeezed: int, conv: type[nn.Conv2d] = nn.Conv2d) -> None:
        """Over ``channels`` channels, through ``squeezed``; ``conv`` is the class of the convolutions."""
        super().__init__()
        self.conv_reduce = conv(channels, squeezed, 1)
        self.conv_expand = conv(squeezed, channels, 1)

    def forward(self, x: Tensor, squeezed: int | None = None) -> Tensor:
        """``x`` of shape ``(N, C, H, W)``, scaled by channel; ``squeezed`` channels inside, None: all."""
        gate = F.adaptive_avg_pool2d(x, 1)
        gate = F.relu(run_conv(self.conv_reduce, gate, squeezed))
        return x * F.hardsigmoid(run_conv(self.conv_expand, gate, None if squeezed is None else x.shape[1]))


class MBConv(nn.Module):
    """An inverted-residual block in which every shape has a shortcut.

    Attributes:
        shape: Its own sizes.
        drop_path_rate: Probability of dropping the residual branch of a sample in training at the net's own arch.

    Source: docs/specification.md, section 3.
    """

    conv_pw: nn.Conv2d | None
    bn1: nn.BatchNorm2d | None
    se: SqueezeExcite | None
    shortcut: nn.Conv2d | None

    def __init__(self, shape: BlockShape, *, has_shortcut: bool, sliced: bool = False) -> None:
        """A block of ``shape``.

        Args:
            shape: Its sizes.
            has_shortcut: Whether it has the 1x1 convolution of the shortcut.
            sliced: Whether its layers are sliced ones.
        """
        super().__init__()
        conv, norm = (SlicedConv2d, SlicedBatchNorm2d) if sliced else (nn.Conv2d, nn.BatchNorm2d)
        mid, kernel = shape.mid_channels, shape.kernel_size
        self.shape, self.drop_path_rate = shape, 0.0
        self.conv_pw = conv(shape.in_channels, mid, 1, bias=False) if shape.expand else None
        self.bn1 = norm(mid) if shape.expand else None
        self.conv_dw = conv(mid, mid, kernel, shape.stride, kernel // 2, groups=mid, bias=False)
        self.bn2 = norm(mid)
        self.se = SqueezeExcite(mid, shape.se_channels, conv) if shape.se_channels else None
        self.conv_pwl = conv(mid, shape.out_channels, 1, bias=False)
        self.bn3 = norm(shape.out_channels)
        nn.init.zeros_(self.bn3.weight)
        self.shortcut = conv(shape.in_channels, shape.out_channels, 1, bias=False) if has_shortcut else None

    def forward(self, x: Tensor, shape: BlockShape | None = None, *, drop: bool = True) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

        Args:
            x: The map.
            shape: Sizes to apply; None: its own, and every layer is called as it is.
            drop: Whether `drop_path_rate` applies.
        """
        own, residual = shape is None, x
        mid, out, squeezed, kernel = (
            (None, None, None, 1)
            if shape is None
            else (shape.mid_channels, shape.out_channels, shape.se_channels, shape.kernel_size)
        )
        if self.conv_pw is not None and self.bn1 is not None:
            residual = run_norm(self.bn1, run_conv(self.conv_pw, residual, mid), own=own)
        residual = run_norm(self.bn2, run_conv(self.conv_dw, residual, mid, kernel), own=own)
        if self.se is not None:
            residual = self.se(residual, squeezed)
        residual = run_norm(self.bn3, run_conv(self.conv_pwl, residual, out), own=own, swish=False)
        if drop and self.drop_path_rate > 0.0 and self.training:
            residual = drop_path(residual, self.drop_path_rate)
        if self.shape.stride == 2:
            x = halve(x)
        if (shape or self.shape).projects_shortcut:
            assert self.shortcut is not None
            x = run_conv(self.shortcut, x, out)
        return residual + x


class Stage(nn.Sequential):
    """The blocks of one stage.

    Attributes:
        grad_checkpointing: In training, store only the inputs of the blocks and run each block again in the backward
            pass.
    """

    grad_checkpointing = False

    def forward(self, x: Tensor, shapes: Sequence[BlockShape] | None = None, *, drop: bool = True) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

        Args:
            x: The map.
            shapes: Sizes of the leading blocks, which alone run; None: all blocks at their own.
            drop: As for `MBConv`.
        """
        for i, block in enumerate(self if shapes is None else list(self)[: len(shapes)]):
            shape = None if shapes is None else shapes[i]
            if self.grad_checkpointing and self.training:
                x = recomputed(block, x, shape, drop=drop)
            else:
                x = block(x, shape, drop=drop)
        return x


def halve(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, C, ceil(H / 2), ceil(W / 2))``: means of 2x2 pixels.

    An odd side has a line of zeros before it, which count in the mean. Under a trace with symbolic sizes the zeros are
    a padding of their own, since a pooling takes a fixed one.

    Source: docs/specification.md, section 3.
    """
    above, before = x.shape[-2] % 2, x.shape[-1] % 2
    if isinstance(above, int) and isinstance(before, int):
        return F.avg_pool2d(x, 2, 2, (above, before))
    return F.avg_pool2d(F.pad(x, (before, 0, above, 0)), 2, 2)


def resize_to(x: Tensor, resolution: int) -> Tensor:
    """Images ``(N, 3, H, W)`` at ``resolution`` pixels per side.

    Bicubic (a = -0.75), corners not aligned, no antialiasing. Images of that size stay as they are; under a trace with
    symbolic sizes they are resized too, which copies them.
    """
    height, width = x.shape[-2], x.shape[-1]
    if isinstance(height, int) and isinstance(width, int) and height == width == resolution:
        return x
    return F.interpolate(x, size=(resolution, resolution), mode="bicubic", align_corners=False)


def shrink_to(x: Tensor, resolution: int) -> Tensor:
    """Images ``(N, 3, H, W)`` resized to ``resolution`` pixels per side if they are larger.

    Bicubic and antialiased, channels-last in memory.
    """
    if max(x.shape[-2:]) <= resolution:
        return x
    small = F.interpolate(x, size=(resolution, resolution), mode="bicubic", align_corners=False, antialias=True)
    return small.contiguous(memory_format=torch.channels_last)
