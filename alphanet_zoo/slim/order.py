"""Reorders the channels of a network by importance, so that a narrow subnet gets the best of the pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from alphanet_zoo.slim.analysis import Analysis, Group
from alphanet_zoo.slim.choices import MIN_ATOMS
from alphanet_zoo.slim.narrow import bound, narrowed, plan
from alphanet_zoo.slim.trace import tensors_of

Measure = Literal["norm", "l1"]
"""'norm': absolute weights of the batch norms; 'l1': L1 norms of the weights that compute the channels."""

_MEASURES: tuple[Measure, ...] = ("norm", "l1")

Importance = Literal["norm", "l1", "data"]
"""A `Measure` for all groups of channels, or 'data': for each group the one that `chosen_measures` returns."""


def atom_importance(net: nn.Module, analysis: Analysis, group: Group, by: Measure) -> npt.NDArray[np.float64]:
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


def _order(net: nn.Module, analysis: Analysis, group: Group, by: Measure) -> npt.NDArray[np.int64]:
    """Positions of the atoms of a group, the most important first."""
    return np.argsort(-atom_importance(net, analysis, group, by), kind="stable")


@torch.no_grad()
def chosen_measures(net: nn.Module, analysis: Analysis, images: Tensor) -> tuple[Measure, ...]:
    """For each group, the measure under which the removal of half of the channels changes the outputs least.

    The change is the KL divergence between the predictions of the network and those without the channels, while all
    other groups are whole. Batch norms use the statistics of the batch.

    Args:
        net: The network.
        analysis: Its analysis.
        images: ``(N, C, H, W)``, normalised training images.
    """
    modes = [(module, module.training) for module in net.modules()]
    try:
        for module, _ in modes:
            module.training = isinstance(module, _NormBase)
        whole = net(images).double().log_softmax(1)
        return tuple(_better_measure(net, analysis, group, images, whole) for group in analysis.groups)
    finally:
        for module, mode in modes:
            module.training = mode


def _better_measure(net: nn.Module, analysis: Analysis, group: Group, images: Tensor, whole: Tensor) -> Measure:
    """The measure of `chosen_measures` for one group; ``whole`` are the network's log-probabilities."""
    count = max(MIN_ATOMS, len(group.atoms) // 2)
    removed = {by: _order(net, analysis, group, by)[count:] for by in _MEASURES}
    if set(removed["norm"]) == set(removed["l1"]):
        return "norm"
    changes: dict[Measure, float] = {}
    for by, atoms in removed.items():
        kept = np.ones(len(analysis.labels), dtype=bool)
        kept[group.atoms[atoms]] = False
        with narrowed(bound(net, plan(net, analysis, kept))):
            found = net(images).double().log_softmax(1)
        changes[by] = float(F.kl_div(found, whole, log_target=True, reduction="batchmean"))
    return "l1" if changes["l1"] < changes["norm"] else "norm"


@torch.no_grad()
def reorder(net: nn.Module, analysis: Analysis, by: Sequence[Measure], images: Tensor) -> list[str]:
    """Sorts the atoms of every group by descending importance, in place. The network computes the same as before.

    Args:
        net: The network.
        analysis: Its analysis; its labels stay valid.
        by: The measure of importance of each group.
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
    for group, measure in zip(analysis.groups, by, strict=True):
        if fixed[group.atoms].any():
            kept.append(group.name)
        else:
            permutations[id(group)] = (group, _order(net, analysis, group, measure))
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
