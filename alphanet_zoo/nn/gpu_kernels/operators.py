"""Convolutions for training on a GPU whose sizes may differ in every step.

cuDNN plans every new shape of a convolution, and compiles code for the depthwise ones. The subnets of a supernet have
thousands of shapes, so that planning takes longer than training. Here a 1x1 convolution is a matrix product, for which
cuBLAS has no such cost, and a depthwise one is a Triton kernel, which is compiled once per kernel size and stride.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

KERNEL_SIZES = (3, 5, 7)
"""Sides of the depthwise kernels that `depthwise_conv` supports."""


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Whether Triton is installed. PyTorch for CUDA installs it, except on Windows."""
    return find_spec("triton") is not None


def fits(x: Tensor, kernel_size: int) -> bool:
    """Whether `depthwise_conv` supports the map ``x``, ``(N, C, H, W)``, on its device."""
    return kernel_size in KERNEL_SIZES and x.shape[1] % 8 == 0 and x.dtype != torch.float64 and has_triton()


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The 1x1 convolution of ``x``, ``(N, C, H, W)``, as a matrix product; the result is channels-last in memory.

    Args:
        x: The map.
        weight: ``(C_out, C, 1, 1)``.
        bias: ``(C_out,)``, or None.
    """
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def depthwise_conv(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Depthwise convolution of ``x`` without bias; see `fits`. Sums are in float32.

    Args:
        x: The map, ``(N, C, H, W)``; under autocast it is cast to its type.
        weight: ``(C, 1, K, K)`` float32, K in `KERNEL_SIZES`.
        stride: Along both axes.
        padding: Zeros added at each side.

    Returns:
        ``(N, C, H', W')`` in the type of ``x``, channels-last in memory.
    """
    result: Tensor = _Depthwise.apply(x.to(_compute_type(x)), weight, stride, padding)
    return result


def _compute_type(x: Tensor) -> torch.dtype:
    """The type to compute in: that of autocast, or of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Depthwise(torch.autograd.Function):
    """The kernels of `alphanet_zoo.nn.gpu_kernels.depthwise`, with their gradients. They can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """See `depthwise_conv`."""
        from alphanet_zoo.nn.gpu_kernels import depthwise as kernels

        rows, taps = x.permute(0, 2, 3, 1).contiguous(), weight.flatten(1).t().contiguous()
        ctx.save_for_backward(rows, taps)
        ctx.stride, ctx.padding = stride, padding
        return kernels.convolved(rows, taps, stride, padding).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of map and weight."""
        from alphanet_zoo.nn.gpu_kernels import depthwise as kernels

        (rows, taps), of_map, of_weight = ctx.saved_tensors, None, None
        gradient = gradients[0].permute(0, 2, 3, 1).contiguous()
        if ctx.needs_input_grad[0]:
            of_map = kernels.map_gradient(gradient, taps, rows.shape, ctx.stride, ctx.padding).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            side = kernels.side_of(taps)
            summed = kernels.weight_gradient(gradient, rows, side, ctx.stride, ctx.padding)
            of_weight = summed.t().reshape(-1, 1, side, side)
        return of_map, of_weight, None, None
