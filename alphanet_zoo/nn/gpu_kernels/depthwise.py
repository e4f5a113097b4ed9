"""Triton kernels of a depthwise convolution and of its gradients, over maps ``(N, H, W, C)``.

Each program computes a block of pixels times a block of channels. The channels are contiguous, and a multiple of 8, so
that threads load vectors.
"""

# mypy: ignore-errors
# ruff: noqa: N803

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, SUMMED_PIXELS = 64, 32
"""Pixels of a block: of the maps, and of the weight gradient."""
PROGRAMS = 2048
"""Number of programs that the weight gradient is divided among."""


def side_of(taps: Tensor) -> int:
    """Side K of a kernel, ``(K * K, C)``."""
    return math.isqrt(taps.shape[0])


def convolved(x: Tensor, taps: Tensor, stride: int, padding: int) -> Tensor:
    """The convolution ``(N, H', W', C)`` of a map ``(N, H, W, C)`` with a kernel ``(K * K, C)`` float32."""
    margin = 2 * padding - side_of(taps)
    height, width = ((side + margin) // stride + 1 for side in x.shape[1:3])
    return _filled(x.new_empty(x.shape[0], height, width, x.shape[3]), x, taps, stride, padding, backwards=False)


def map_gradient(gradient: Tensor, taps: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    """The gradient of the map, of ``shape``, from that of the result ``(N, H', W', C)``."""
    return _filled(gradient.new_empty(shape), gradient, taps, stride, padding, backwards=True)


def _filled(out: Tensor, source: Tensor, taps: Tensor, stride: int, padding: int, *, backwards: bool) -> Tensor:
    """Computes ``out``: the convolution of ``source``, or with ``backwards`` its transpose."""
    channels, block = out.shape[3], _channel_block(out.shape[3])
    pixels = out.numel() // channels
    _convolve[(triton.cdiv(pixels, PIXELS), triton.cdiv(channels, block))](
        source, taps, out, pixels, channels // 8, *source.shape[1:3], *out.shape[1:3],
        K=side_of(taps), STRIDE=stride, PADDING=padding, BACKWARDS=backwards, PIXELS=PIXELS, CHANNELS=block,
    )  # fmt: skip
    return out


def weight_gradient(gradient: Tensor, x: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """The gradient ``(K * K, C)`` float32 of the kernel. Its sums have a fixed order."""
    count, height, width, channels = x.shape
    block = _channel_block(channels)
    blocks, pixels = triton.cdiv(channels, block), count * gradient.shape[1] * gradient.shape[2]
    rounds = triton.cdiv(pixels, SUMMED_PIXELS)
    per_program = triton.cdiv(rounds, max(PROGRAMS // (blocks * side), 1))
    parts = triton.cdiv(rounds, per_program)
    sums = torch.empty((parts, side * side, channels), dtype=torch.float32, device=x.device)
    _weight_gradient[(parts, blocks, side)](
        gradient, x, sums, pixels, per_program, channels // 8, height, width, gradient.shape[1], gradient.shape[2],
        K=side, STRIDE=stride, PADDING=padding, PIXELS=SUMMED_PIXELS, CHANNELS=block,
    )  # fmt: skip
    return sums.sum(0)


def _channel_block(channels: int) -> int:
    """Channels of a block."""
    return 16 if channels <= 16 else 32


@triton.jit(do_not_specialize=["pixels", "eighths", "height", "width", "out_height", "out_width"])
def _convolve(
    source, taps, out, pixels, eighths, height, width, out_height, out_width,
    K: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, BACKWARDS: tl.constexpr, PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """A block of ``out``; ``height`` and ``width`` are those of ``source``."""
    channels = eighths * 8
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    column, row = pixel % out_width, pixel // out_width % out_height
    image = (pixel // (out_width * out_height)).to(tl.int64)
    inside, exists = pixel < pixels, channel < channels
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for i in range(K):
        for j in tl.static_range(K):
            if BACKWARDS:
                y, z = row + (PADDING - i), column + (PADDING - j)
            else:
                y, z = row * STRIDE + (i - PADDING), column * STRIDE + (j - PADDING)
            valid = inside & (y >= 0) & (z >= 0)
            if BACKWARDS and STRIDE > 1:
                valid = valid & (y % STRIDE == 0) & (z % STRIDE == 0)
                y, z = y // STRIDE, z // STRIDE
            valid = valid & (y < height) & (z < width)
            place = ((image * height + y) * width + z) * channels
            value = tl.load(
                source + place[:, None] + channel[None, :], mask=valid[:, None] & exists[None, :], other=0.0
            )
            tap = tl.load(taps + (i * K + j) * channels + channel, mask=exists, other=0.0)
            total += value.to(tl.float32) * tap[None, :]
    place = pixel.to(tl.int64) * channels
    tl.store(
        out + place[:, None] + channel[None, :],
        total.to(out.dtype.element_ty),
        mask=inside[:, None] & exists[None, :],
    )


@triton.jit
def _at_tap(x, start, y, column, j, inside, height, width, channels, channel, exists):
    """The values of the map under one tap of the kernel, for a block of results."""
    z = column + j
    valid = inside & (y >= 0) & (y < height) & (z >= 0) & (z < width)
    place = (start + z) * channels
    return tl.load(x + place[:, None] + channel[None, :], mask=valid[:, None] & exists[None, :], other=0.0).to(
        tl.float32
    )


@triton.jit(do_not_specialize=["pixels", "per_program", "eighths", "height", "width", "out_height", "out_width"])
def _weight_gradient(
    gradient, x, sums, pixels, per_program, eighths, height, width, out_height, out_width,
    K: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums over a part of the pixels for a row of taps."""
    channels = eighths * 8
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    exists, i = channel < channels, tl.program_id(2)
    a0 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    a1, a2, a3, a4, a5, a6 = a0, a0, a0, a0, a0, a0
    first = tl.program_id(0) * per_program
    for turn in range(first, first + per_program):
        pixel = turn * PIXELS + tl.arange(0, PIXELS)
        inside = pixel < pixels
        column, row = pixel % out_width * STRIDE - PADDING, pixel // out_width % out_height * STRIDE - PADDING
        y = row + i
        start = ((pixel // (out_width * out_height)).to(tl.int64) * height + y) * width
        place = pixel.to(tl.int64) * channels
        value = tl.load(
            gradient + place[:, None] + channel[None, :], mask=inside[:, None] & exists[None, :], other=0.0
        ).to(tl.float32)
        a0 += value * _at_tap(x, start, y, column, 0, inside, height, width, channels, channel, exists)
        a1 += value * _at_tap(x, start, y, column, 1, inside, height, width, channels, channel, exists)
        a2 += value * _at_tap(x, start, y, column, 2, inside, height, width, channels, channel, exists)
        if K > 3:
            a3 += value * _at_tap(x, start, y, column, 3, inside, height, width, channels, channel, exists)
            a4 += value * _at_tap(x, start, y, column, 4, inside, height, width, channels, channel, exists)
        if K > 5:
            a5 += value * _at_tap(x, start, y, column, 5, inside, height, width, channels, channel, exists)
            a6 += value * _at_tap(x, start, y, column, 6, inside, height, width, channels, channel, exists)
    target = sums + ((tl.program_id(0) * K + i) * K) * channels + channel
    tl.store(target, tl.sum(a0, 0), mask=exists)
    tl.store(target + channels, tl.sum(a1, 0), mask=exists)
    tl.store(target + 2 * channels, tl.sum(a2, 0), mask=exists)
    if K > 3:
        tl.store(target + 3 * channels, tl.sum(a3, 0), mask=exists)
        tl.store(target + 4 * channels, tl.sum(a4, 0), mask=exists)
    if K > 5:
        tl.store(target + 5 * channels, tl.sum(a5, 0), mask=exists)
        tl.store(target + 6 * channels, tl.sum(a6, 0), mask=exists)
