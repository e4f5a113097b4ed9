"""The cost of an architecture: exact multiply-accumulates and parameters."""

from __future__ import annotations

from typing import overload

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.space.tables import Int64Array, IntArray


@overload
def count_macs(arch: ArchSpec, space: SearchSpace = ALPHANET, num_classes: int = 1000) -> int: ...
@overload
def count_macs(arch: IntArray, space: SearchSpace = ALPHANET, num_classes: int = 1000) -> Int64Array: ...
def count_macs(arch: ArchSpec | IntArray, space: SearchSpace = ALPHANET, num_classes: int = 1000) -> int | Int64Array:
    """Multiply-accumulates (MACs) of the net of ``arch`` for one image at its resolution.

    Counts convolutions and linear layers, including squeeze-and-excite, shortcuts and head. Does not count batch norm,
    activations, pooling and the resize. Papers often call MACs "FLOPs".

    Args:
        arch: An arch of ``space``, or many: integers ``(n, scalars)``, one `ArchSpec.scalars` per row.
        space: The search space of ``arch``.
        num_classes: Outputs of the classifier; 0 for a net without a classifier.

    Returns:
        The count; for many archs an int64 array ``(n,)``.

    Raises:
        ValueError: An arch is not in ``space``, or ``num_classes`` is negative.

    Source: docs/specification.md, section 3, "Cost".
    """
    return space.count_macs(arch, num_classes)


def count_params(arch: ArchSpec, space: SearchSpace = ALPHANET, num_classes: int = 1000) -> int:
    """Number of parameters of the static net of ``arch``. Running statistics of batch norm are not parameters.

    Args:
        arch: An arch of ``space``.
        space: The search space of ``arch``.
        num_classes: Outputs of the classifier; 0 for a net without a classifier.

    Raises:
        ValueError: ``arch`` is not in ``space``, or ``num_classes`` is negative.
    """
    return space.count_params(arch, num_classes)


def macs_text(macs: float, *, flops: bool = False) -> str:
    """A cost for people, such as ``443.53 M MACs``.

    Args:
        macs: Multiply-accumulates.
        flops: Add the same cost in floating-point operations, two per multiply-accumulate, as some tools count:
            ``443.53 M MACs (887.06 M FLOPs)``.
    """

    def millions(count: float) -> str:
        if count < 1e5:
            return f"{count:.0f}"
        return f"{count / 1e6:.0f} M" if count % 1e6 == 0 else f"{count / 1e6:.2f} M"

    return f"{millions(macs)} MACs" + (f" ({millions(2 * macs)} FLOPs)" if flops else "")
