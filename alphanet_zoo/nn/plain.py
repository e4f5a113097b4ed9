"""Which layers are plain, so that a copy of their tensors is a copy of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from alphanet_zoo.nn.slicing import slice_to


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes what torch's convolution, batch norm or linear layer computes from its tensors.

    True for pruned and parametrised layers, whose ``weight`` is the one that takes effect.
    """
    module = type(layer).forward.__module__
    known = module.startswith("torch.nn.modules.") or module.startswith("alphanet_zoo.nn.")
    return known and isinstance(layer, nn.Conv2d | nn.Linear | _BatchNorm)


def slice_of(net: nn.Module, name: str, like: Tensor, *, whole: bool) -> Tensor:
    """A copy of a slice of one of the tensors of ``net``.

    Args:
        net: A net of plain layers.
        name: The tensor's name.
        like: Has the shape of the slice.
        whole: Whether the copy is for a net of the same arch.

    Raises:
        ValueError: The layer is not plain.
    """
    path, _, leaf = name.rpartition(".")
    layer = net.get_submodule(path)
    tensor = getattr(layer, leaf, None)
    if not is_plain(layer) or not isinstance(tensor, Tensor):
        raise ValueError(f"{path} is a {type(layer).__name__}; put torch's own layer in its place to copy it")
    if leaf == "num_batches_tracked" and not whole:
        return torch.zeros_like(tensor)  # No batch has been averaged into sliced statistics.
    return slice_to(tensor.detach(), like.shape).clone(memory_format=torch.contiguous_format)
