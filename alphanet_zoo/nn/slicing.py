"""The rule by which a subnet takes its weights from a supernet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def slice_to(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The part of ``tensor`` that a smaller layer uses: leading channels, centres of kernels.

    Args:
        tensor: A parameter or buffer: channels in the first two dimensions, kernel sides in any others.
        shape: The smaller layer's shape, of the same number of dimensions.

    Returns:
        A view of ``tensor``; ``tensor`` itself if the shapes are equal.

    Raises:
        ValueError: ``shape`` has other dimensions, is larger, or leaves an even margin around a kernel impossible.

    Source: docs/specification.md, section 3, "Slices".
    """
    if tuple(tensor.shape) == tuple(shape):
        return tensor
    if len(shape) != tensor.dim():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no slice of shape {tuple(shape)}")
    for dim, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
        margin = have - want
        if margin < 0 or (dim >= 2 and margin % 2):
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no slice of shape {tuple(shape)}")
        if margin:
            tensor = tensor.narrow(dim, margin // 2 if dim >= 2 else 0, want)
    return tensor
