"""The rule by which a subnet takes its weights from a supernet."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_LAYOUT = re.compile("grad and param do not obey the gradient layout contract", re.IGNORECASE)
"""PyTorch's note on gradients that are slices of a buffer."""
_adding = False


@contextmanager
def adding_to_gradients() -> Iterator[None]:
    """In this context, the backward pass adds the gradient of a slice directly to the ``grad`` of its parameter.

    The sums are the same as without it, and the backward pass creates no gradients that are zero outside the slice.
    Parameters without ``grad``, or with hooks, are sliced as usual. Use `torch.autograd.backward`; the slices are not
    connected to the parameters, so that `torch.autograd.grad` does not find them.
    """
    global _adding
    if not any(entry[:1] == ("ignore",) and entry[1] == _LAYOUT for entry in warnings.filters):
        warnings.filterwarnings("ignore", _LAYOUT.pattern)
    before, _adding = _adding, True
    try:
        yield
    finally:
        _adding = before


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
    place = []
    for dim, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
        margin = have - want
        if margin < 0 or (dim >= 2 and margin % 2):
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no slice of shape {tuple(shape)}")
        if margin:
            place.append((dim, margin // 2 if dim >= 2 else 0, want))
    if not (_adding and _may_add(tensor)):
        return _narrowed(tensor, place)
    part = _narrowed(tensor.detach(), place).requires_grad_()
    assert tensor.grad is not None
    part.grad = _narrowed(tensor.grad, place)
    return part


def _narrowed(tensor: Tensor, place: Sequence[tuple[int, int, int]]) -> Tensor:
    """A view of ``tensor``; ``place`` has a dimension, the first index and the size of each cut."""
    for cut in place:
        tensor = tensor.narrow(*cut)
    return tensor


def _may_add(tensor: Tensor) -> bool:
    """Whether the gradient of a slice may be added to ``tensor.grad``."""
    return (
        tensor.is_leaf
        and tensor.requires_grad
        and tensor.grad is not None
        and torch.is_grad_enabled()
        and not tensor._backward_hooks
        and not tensor._post_accumulate_grad_hooks
        and not torch.compiler.is_compiling()
    )
