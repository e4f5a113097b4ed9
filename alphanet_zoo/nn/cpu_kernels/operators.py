"""Custom operators for training on the CPU: batch norm with swish, and depthwise convolution.

PyTorch computes the same. On processors with AVX2 its weight gradient of a depthwise convolution takes up to ten times
as long as the forward pass, and a batch norm followed by a swish reads and writes memory five times where three do.

The operators are ``alphanet::norm_swish`` and ``alphanet::depthwise_conv``. They have meta implementations and autograd
formulas, so that autograd, torch.compile and torch.export see them. They work on maps for which `fits` is true.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alphanet_zoo.nn.cpu_kernels.library import load

KERNEL_SIZES = (3, 5, 7)
"""Sides of the depthwise kernels that `depthwise_conv` supports."""


def fits(x: Tensor) -> bool:
    """Whether the operators support the map ``x``, ``(N, C, H, W)``."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] % 8 == 0


def norm_swish(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Swish of the batch norm of ``x`` by the batch's statistics; see `fits`.

    Args:
        x: The map, ``(N, C, H, W)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to the variance.
    """
    result: Tensor = _norm_swish(x, weight, bias, eps)[0]
    return result


def depthwise_conv(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Depthwise convolution of ``x`` without bias; see `fits`.

    Args:
        x: The map, ``(N, C, H, W)``.
        weight: ``(C, 1, K, K)``, K in `KERNEL_SIZES`.
        stride: Along both axes.
        padding: Zeros added at each side.
    """
    result: Tensor = _depthwise_conv(x, weight, stride, padding)
    return result


def _rows(x: Tensor) -> Tensor:
    """A map in the layout that the loops read."""
    return x.contiguous(memory_format=torch.channels_last)


def _empty_map(x: Tensor) -> Tensor:
    """An uninitialised map of the shape of ``x``, channels last."""
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op("alphanet::norm_swish", mutates_args=(), device_types="cpu")
def _norm_swish(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The result, and what the gradient needs: scale, shift, mean and inverse deviation, ``(4, C)``."""
    x, channels, library = _rows(x), x.shape[1], load()
    count = x.numel() // channels
    kept, variance, out = x.new_empty(4, channels), x.new_empty(channels), _empty_map(x)
    scale, shift, mean, inverse = kept.unbind()
    library.call("channel_statistics", x, count, channels, mean, variance)
    torch.rsqrt(variance.add_(eps), out=inverse)
    torch.mul(inverse, weight, out=scale)
    torch.sub(bias, mean * scale, out=shift)
    library.call("norm_swish", x, count, channels, scale, shift, out)
    return out, kept


@_norm_swish.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _empty_map(x), x.new_empty(4, x.shape[1])


@torch.library.custom_op("alphanet::norm_swish_backward", mutates_args=(), device_types="cpu")
def _norm_swish_backward(gradient: Tensor, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of map, weight and bias; ``kept`` as from the forward pass."""
    x, channels = _rows(x), x.shape[1]
    results = _empty_map(x), x.new_empty(channels), x.new_empty(channels)
    load().call(
        "norm_swish_backward", _rows(gradient), x, x.numel() // channels, channels, *kept.unbind(), *results
    )  # fmt: skip
    return results


@_norm_swish_backward.register_fake
def _(gradient: Tensor, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_map(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def _keep_for_norm_swish(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Saves the map and four numbers per channel; the gradient recomputes the sigmoid."""
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], output[1])


def _differentiate_norm_swish(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    """The autograd formula of ``alphanet::norm_swish``."""
    if gradient is None:
        return None, None, None, None
    return *_norm_swish_backward(gradient, *ctx.saved_tensors), None


_norm_swish.register_autograd(_differentiate_norm_swish, setup_context=_keep_for_norm_swish)


@torch.library.custom_op("alphanet::depthwise_conv", mutates_args=(), device_types="cpu")
def _depthwise_conv(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """PyTorch's convolution, channels last."""
    return _rows(torch.conv2d(_rows(x), weight, None, stride, padding, 1, x.shape[1]))


@_depthwise_conv.register_fake
def _(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    margin = 2 * padding - weight.shape[2]
    sides = [(side + margin) // stride + 1 for side in x.shape[2:]]
    return x.new_empty(x.shape[0], x.shape[1], *sides).contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("alphanet::depthwise_weight_gradient", mutates_args=(), device_types="cpu")
def _depthwise_weight_gradient(gradient: Tensor, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient ``(C, 1, K, K)`` of the weight."""
    gradient, x = _rows(gradient), _rows(x)
    result = x.new_empty(x.shape[1], 1, kernel, kernel)
    load().call(
        "depthwise_weight_gradient", gradient, x, *x.shape, *gradient.shape[2:], kernel, stride, padding, result
    )
    return result


@_depthwise_weight_gradient.register_fake
def _(gradient: Tensor, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    return x.new_empty(x.shape[1], 1, kernel, kernel)


def _keep_for_depthwise_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Saves map and weight."""
    x, weight, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(x, weight)


def _differentiate_depthwise_conv(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The autograd formula of ``alphanet::depthwise_conv``: the gradient of the map is PyTorch's."""
    (x, weight), stride, padding = ctx.saved_tensors, ctx.stride, ctx.padding
    kernel, of_map, of_weight = weight.shape[2], None, None
    if ctx.needs_input_grad[0]:
        of_map = torch.ops.aten.convolution_backward(
            _rows(gradient), _rows(x), weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
            x.shape[1], [True, False, False],
        )[0]  # fmt: skip
    if ctx.needs_input_grad[1]:
        of_weight = _depthwise_weight_gradient(gradient, x, kernel, stride, padding)
    return of_map, of_weight, None, None


_depthwise_conv.register_autograd(_differentiate_depthwise_conv, setup_context=_keep_for_depthwise_conv)
