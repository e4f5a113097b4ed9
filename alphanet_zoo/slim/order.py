"""Reorders the channels of a network by importance, so that a narrow subnet gets the best of the pretrained weights."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from alphanet_zoo.slim.analysis import Analysis, Group
from alphanet_zoo.slim.trace import tensors_of

Importance = Literal["norm", "l1"]
"""'norm': absolute weights of the batch norms; 'l1': L1 norms of the weights that compute the channels."""


def atom_importance(net: nn.Module, analysis: Analysis, group: Group, by: Importance) -> npt.NDArray[np.float64]:
    """The importance of each atom of a group, ``(atoms,)``.

    Args:
        net: The network.
        analysis: Its analysis.
        group: The group.
        by: The measure. A group without batch norm uses 'l1'.
    """
    place = np.full(len(analysis.labels), -1)
    place[group.atoms] = np.arange(len(group.atoms))
    norms = np.zeros(len(group.atoms))
    weights = np.zeros(len(group.atoms))
    for name, parameter in net.named_parameters():
        axes = analysis.axes(name) if name in analysis.tensors else []
        if not axes or not len(axes[0]):
            continue
        where = place[axes[0]]
        if not (where >= 0).any():
            continue
        sizes = parameter.detach().abs().flatten(1).sum(1) if parameter.dim() > 1 else parameter.detach().abs()
        target = weights if parameter.dim() > 1 else norms if name in analysis.norm_weights else None
        if target is not None:
            np.add.at(target, where[where >= 0], sizes.double().cpu().numpy()[where >= 0])
    return norms if by == "norm" and norms.any() else weights


@torch.no_grad()
def reorder(net: nn.Module, analysis: Analysis, by: Importance, images: Tensor) -> list[str]:
    """Sorts the atoms of every group by descending importance, in place. The network computes the same as before.

    Args:
        net: The network.
        analysis: Its analysis; its labels stay valid.
        by: The measure of importance.
        images: ``(N, C, H, W)``; a group whose reordering changes the outputs on them is left as it is.

    Returns:
        Names of the groups that were left as they are because their order matters.
    """
    training = net.training
    net.eval()
    kept = []
    permutations = {}
    fixed = np.zeros(len(analysis.labels), dtype=bool)
    for labels in analysis.ordered:
        fixed[np.unique(analysis.labels.roots(labels))] = True
    for group in analysis.groups:
        if fixed[group.atoms].any():
            kept.append(group.name)
        else:
            order = np.argsort(-atom_importance(net, analysis, group, by), kind="stable")
            permutations[id(group)] = (group, order)
    before = net(images)
    original = {name: tensor.clone() for name, tensor in tensors_of(net).items()}
    _permute(net, analysis, list(permutations.values()))
    if not _close(net(images), before):
        for name, tensor in tensors_of(net).items():
            tensor.copy_(original[name])
        for group, order in permutations.values():
            _permute(net, analysis, [(group, order)])
            if not _close(net(images), before):
                _permute(net, analysis, [(group, np.argsort(order))])
                kept.append(group.name)
    net.train(training)
    return kept


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs differ by rounding only."""
    return bool(torch.allclose(a, b, 1e-4, 1e-5 * max(1.0, float(b.abs().max())), equal_nan=True))


def _permute(net: nn.Module, analysis: Analysis, permutations: list[tuple[Group, npt.NDArray[np.int64]]]) -> None:
    """Puts atom ``order[i]`` of each group in the place of atom ``i``, in every tensor."""
    target = np.arange(len(analysis.labels))
    for group, order in permutations:
        target[group.atoms] = group.atoms[order]
    for name, tensor in tensors_of(net).items():
        for dim, axis in enumerate(analysis.axes(name)):
            if not len(axis) or (target[axis] == axis).all():
                continue
            # The j-th index of an atom is filled from the j-th index of the atom that takes its place.
            order = np.argsort(axis, kind="stable")
            start = np.searchsorted(axis[order], axis)
            rank = np.empty(len(axis), dtype=np.int64)
            rank[order] = np.arange(len(axis)) - start[order]
            source = order[np.searchsorted(axis[order], target[axis]) + rank]
            tensor.copy_(tensor.index_select(dim, torch.from_numpy(source).to(tensor.device)))
