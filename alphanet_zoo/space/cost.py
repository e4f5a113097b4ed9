"""What an arch costs: multiply-accumulates and parameters, exactly."""

from __future__ import annotations

from typing import overload

import numpy as np
import numpy.typing as npt

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.shapes import BlockShape, NetShape, net_shape
from alphanet_zoo.space.space import IntArray, SearchSpace


def block_macs(block: BlockShape) -> int:
    """Multiply-accumulates of one MBConv block for one image."""
    inner, outer = block.in_size**2, block.out_size**2
    macs = block.in_channels * block.mid_channels * inner if block.expand else 0
    macs += block.mid_channels * block.kernel_size**2 * outer
    macs += 2 * block.mid_channels * block.se_channels
    macs += block.mid_channels * block.out_channels * outer
    if block.projects_shortcut:
        macs += block.in_channels * block.out_channels * outer
    return macs


def block_params(block: BlockShape) -> int:
    """Parameters of one MBConv block: convolutions, and weight and bias of its batch norms."""
    mid, out = block.mid_channels, block.out_channels
    params = block.in_channels * mid + 2 * mid if block.expand else 0
    params += mid * block.kernel_size**2 + 2 * mid
    if block.se_channels:
        params += 2 * mid * block.se_channels + block.se_channels + mid
    params += mid * out + 2 * out
    if block.projects_shortcut:
        params += block.in_channels * out
    return params


def stem_macs(channels: int, size: int) -> int:
    """Multiply-accumulates of the stem's 3x3 convolution of an RGB image."""
    return 3 * 9 * channels * size**2


def head_macs(in_channels: int, num_features: int, head_channels: int, size: int, num_classes: int) -> int:
    """Multiply-accumulates of the last convolutions and the classifier."""
    return in_channels * num_features * size**2 + num_features * head_channels + head_channels * num_classes


def shape_macs(shape: NetShape, num_classes: int) -> int:
    """Multiply-accumulates of a whole net."""
    last = shape.last_block
    return (
        stem_macs(shape.stem_channels, shape.stem_size)
        + sum(block_macs(block) for stage in shape.stages for block in stage)
        + head_macs(last.out_channels, shape.num_features, shape.head_channels, last.out_size, num_classes)
    )


@overload
def count_macs(arch: ArchSpec, space: SearchSpace = ALPHANET, num_classes: int = 1000) -> int: ...
@overload
def count_macs(arch: IntArray, space: SearchSpace = ALPHANET, num_classes: int = 1000) -> npt.NDArray[np.int64]: ...
def count_macs(
    arch: ArchSpec | IntArray, space: SearchSpace = ALPHANET, num_classes: int = 1000
) -> int | npt.NDArray[np.int64]:
    """Multiply-accumulates of one image through the net of ``arch``, at its resolution.

    Counted: convolutions and linear layers, squeeze-and-excite, shortcuts and head included. Not counted: batch
    norm, activations, pooling, the resize. The field writes this as FLOPs; one multiply-accumulate is one.

    Args:
        arch: An arch of ``space``, or many: integers ``(n, scalars)``, a row an `ArchSpec.scalars`.
        space: The search space that ``arch`` comes from.
        num_classes: Outputs of the classifier; 0 is a net without one.

    Returns:
        The count; of many archs, an int64 array ``(n,)``.

    Raises:
        ValueError: An arch is not in ``space``, or ``num_classes`` is negative.

    Source: docs/specification.md, section 3, "Cost".
    """
    _check_classes(num_classes)
    if isinstance(arch, ArchSpec):
        return shape_macs(net_shape(space, arch), num_classes)
    if not isinstance(arch, np.ndarray):
        raise ValueError(
            f"no cost of a {type(arch).__name__}; give an ArchSpec (of a net: .arch), or an integer array of many"
        )
    from alphanet_zoo.space.tables import count_rows  # made of the functions above

    return count_rows(space, arch, num_classes)


def count_params(arch: ArchSpec, space: SearchSpace = ALPHANET, num_classes: int = 1000) -> int:
    """Parameters of the static net of ``arch`` (batch norm's running statistics are none).

    Args:
        arch: An arch of ``space``.
        space: The search space that ``arch`` comes from.
        num_classes: Outputs of the classifier; 0 is a net without one.

    Raises:
        ValueError: ``arch`` is not in ``space``, or ``num_classes`` is negative.
    """
    _check_classes(num_classes)
    shape = net_shape(space, arch)
    features, head = shape.num_features, shape.head_channels
    stem = 27 * shape.stem_channels + 2 * shape.stem_channels
    blocks = sum(block_params(block) for stage in shape.stages for block in stage)
    last = shape.last_block.out_channels * features + 2 * features + features * head
    return stem + blocks + last + head * num_classes + num_classes


def _check_classes(num_classes: int) -> None:
    """Refuses a negative number of classes."""
    if num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}; give the number of classes, 0 for a net without a classifier")
