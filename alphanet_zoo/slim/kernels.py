"""Faster convolutions in the training of a network of any class: see `FasterConvs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from alphanet_zoo.nn.cpu_kernels import operators as cpu_operators
from alphanet_zoo.nn.gpu_kernels import operators as gpu_operators


class FasterConvs(TorchFunctionMode):
    """Within this context, `alphanet_zoo.nn.cpu_kernels` and `gpu_kernels` compute depthwise convolutions.

    On a GPU, 1x1 convolutions become matrix products. All other convolutions are left to PyTorch.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls ``func``, or computes its result."""
        result = _convolved(*args, **(kwargs or {})) if func is torch.conv2d else None
        return func(*args, **(kwargs or {})) if result is None else result


def _convolved(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:  # fmt: skip
    """The convolution, with the arguments of `torch.conv2d`; None if it is left to PyTorch."""
    if input.dim() != 4 or isinstance(padding, str):
        return None
    strides, margins, sides = set(_pair(stride)), set(_pair(padding)), set(weight.shape[2:])
    if input.is_cuda and groups == 1 and sides == strides == {1} and margins == {0}:
        return gpu_operators.pointwise_conv(input, weight, bias)
    if not groups == input.shape[1] == weight.shape[0] > 1:
        return None
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
