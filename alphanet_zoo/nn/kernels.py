"""Compiled loops for training on the CPU: batch norm with swish, and depthwise convolution.

PyTorch's own compute the same. On processors with AVX2 its weight gradient of a depthwise convolution takes up to ten
times as long as the forward pass, and a batch norm and a swish go over memory five times where three do.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alphanet_zoo.errors import AlphaNetError, MissingProgramError

_active: Kernels | None = None


class Kernels:
    """The loops, loaded into this process. `compile_kernels` makes them."""

    def __init__(self, library: Path) -> None:
        """Loads them."""
        self._library = ctypes.CDLL(str(library))

    def call(self, name: str, *arguments: Tensor | int) -> None:
        """Calls a loop with pointers to tensors, numbers and torch's number of threads."""
        function = getattr(self._library, name)
        function.restype = None
        given = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_long(a) for a in arguments]
        function(*given, ctypes.c_int(torch.get_num_threads()))


def compile_kernels() -> Kernels:
    """Compiles the loops for this machine, which takes about a second, with ``$CXX`` or else ``c++``.

    From then on this process keeps the memory that it frees, which spares the next step the clearing of new pages.

    Raises:
        MissingProgramError: There is no such compiler.
        AlphaNetError: It fails.
    """
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise MissingProgramError(
            f"there is no C++ compiler {compiler!r}; install one (Debian: apt-get install g++), name it in CXX, "
            "or leave optim.kernels=torch"
        )
    avx = ["-mavx2", "-mfma"] if torch.backends.cpu.get_cpu_capability().startswith("AVX") else []
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        source = Path(__file__).with_suffix(".cpp")
        command = [compiler, "-std=c++17", "-O3", *avx, "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(library)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[0]
            raise AlphaNetError(f"{compiler} cannot compile {source.name} ({reason}); leave optim.kernels=torch")
        kernels = Kernels(library)
    _keep_freed_memory()
    return kernels


def _keep_freed_memory() -> None:
    """Sets glibc's allocator so; other C libraries have no such setting and stay as they are."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, most_mapped = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(most_mapped, 0)


@contextmanager
def using(kernels: Kernels | None) -> Iterator[None]:
    """Forward passes in training inside take the loops where they can; None: PyTorch's."""
    global _active
    before, _active = _active, kernels
    try:
        yield
    finally:
        _active = before


def serve(x: Tensor) -> bool:
    """Whether loops are in use that can work on the map ``x``, ``(N, C, H, W)``."""
    return _active is not None and x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] % 8 == 0


def norm_swish(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The swish of a batch norm with the batch's statistics, over ``(N, C, H, W)``; see `serve`.

    Args:
        x: The map.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to the variance.
    """
    result: Tensor = _NormSwish.apply(x, weight, bias, eps)
    return result


def depthwise_conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A depthwise convolution of ``(N, C, H, W)`` without bias; see `serve`.

    Args:
        x: The map.
        weight: ``(C, 1, K, K)``, K of 3, 5 or 7. The padding is K // 2.
        stride: Along both axes.
    """
    result: Tensor = _DepthwiseConv.apply(x, weight, stride)
    return result


def _rows(x: Tensor) -> Tensor:
    """A map in the layout that the loops read."""
    return x.contiguous(memory_format=torch.channels_last)


class _NormSwish(torch.autograd.Function):
    """Keeps the map and one line a channel; recomputes the swish's sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """See `norm_swish`."""
        assert _active is not None
        x, channels = _rows(x), x.shape[1]
        count = x.numel() // channels
        mean, variance, out = x.new_empty(channels), x.new_empty(channels), torch.empty_like(x)
        _active.call("channel_statistics", x, count, channels, mean, variance)
        inverse = (variance + eps).rsqrt_()
        scale = inverse * weight
        shift = bias - mean * scale
        _active.call("norm_swish", x, count, channels, scale, shift, out)
        ctx.kernels = _active
        ctx.save_for_backward(x, scale, shift, mean, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of map, weight and bias."""
        x, scale, shift, mean, inverse = ctx.saved_tensors
        channels = x.shape[1]
        results = torch.empty_like(x), x.new_empty(channels), x.new_empty(channels)
        ctx.kernels.call(
            "norm_swish_backward", _rows(gradient), x, x.numel() // channels, channels, scale, shift, mean, inverse,
            *results,
        )  # fmt: skip
        return *results, None


class _DepthwiseConv(torch.autograd.Function):
    """PyTorch's convolution and its gradient of the map; the loop's gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """See `depthwise_conv`."""
        ctx.kernels, ctx.stride = _active, stride
        x = _rows(x)
        ctx.save_for_backward(x, weight)
        return torch.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Gradients of map and weight."""
        (x, weight), stride, gradient = ctx.saved_tensors, ctx.stride, _rows(gradient)
        kernel, of_map = weight.shape[2], None
        if ctx.needs_input_grad[0]:
            of_map = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], x.shape[1],
                [True, False, False],
            )[0]  # fmt: skip
        of_weight = x.new_empty(weight.shape)
        ctx.kernels.call(
            "depthwise_weight_gradient", gradient, x, *x.shape, *gradient.shape[2:], kernel, stride, of_weight
        )
        return of_map, of_weight, None
