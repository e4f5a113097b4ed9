"""Faster depthwise convolutions in the training of a network of any class: see `DepthwiseConvs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from alphanet_zoo.nn.cpu_kernels import operators as cpu_operators
from alphanet_zoo.nn.gpu_kernels import operators as gpu_operators


class DepthwiseConvs(TorchFunctionMode):
    """Within this context, `alphanet_zoo.nn.cpu_kernels` and `gpu_kernels` compute depthwise convolutions.

    Those that they do not support are left to PyTorch.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls ``func``, or computes its result."""
        result = _depthwise(*args, **(kwargs or {})) if func is torch.conv2d else None
        return func(*args, **(kwargs or {})) if result is None else result


def _depthwise(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:  # fmt: skip
    """The convolution, with the arguments of `torch.conv2d`; None if it is not a depthwise one that is supported."""
    if input.dim() != 4 or isinstance(padding, str) or not groups == input.shape[1] == weight.shape[0] > 1:
        return None
    strides, margins, sides = set(_pair(stride)), set(_pair(padding)), set(weight.shape[2:])
    if len(strides) > 1 or len(margins) > 1 or len(sides) > 1 or set(_pair(dilation)) != {1}:
        return None
    (side,) = sides
    if side in cpu_operators.KERNEL_SIZES and cpu_operators.fits(input):
        result = cpu_operators.depthwise_conv(input, weight, strides.pop(), margins.pop())
    elif input.is_cuda and gpu_operators.fits(input, side):
        result = gpu_operators.depthwise_conv(input, weight, strides.pop(), margins.pop())
    else:
        return None
    return result if bias is None else result + bias.to(result.dtype).view(-1, 1, 1)
