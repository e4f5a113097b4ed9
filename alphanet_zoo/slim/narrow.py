"""Runs and extracts a part of a network: some channels of every layer, without some blocks."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from alphanet_zoo.slim.analysis import Analysis, Mask, within
from alphanet_zoo.slim.trace import tensors_of


@dataclass(frozen=True, eq=False)
class Cut:
    """The kept indices of one dimension of a tensor.

    Attributes:
        dim: The dimension.
        start: First index.
        length: Number of indices.
        index: The indices if they are not consecutive, else None.
    """

    dim: int
    start: int
    length: int
    index: Tensor | None

    def of(self, tensor: Tensor) -> Tensor:
        """The kept part of a tensor: a view if the indices are consecutive. Gradients reach ``tensor``."""
        if self.index is None:
            return tensor.narrow(self.dim, self.start, self.length)
        return tensor.index_select(self.dim, self.index)

    def on(self, device: torch.device) -> Cut:
        """The same cut for tensors on a device."""
        return self if self.index is None else replace(self, index=self.index.to(device))


@dataclass(frozen=True, eq=False)
class Plan:
    """How to narrow a network.

    Attributes:
        cuts: Kept indices of each tensor that becomes smaller, by name.
        attributes: Attributes that describe the size of a layer: module, name, value.
        dropped: Names of the blocks that are left out.
        features: Channels of each entry of timm's ``feature_info``, by position.
    """

    cuts: dict[str, tuple[Cut, ...]]
    attributes: tuple[tuple[str, str, Any], ...]
    dropped: tuple[str, ...]
    features: dict[int, int]


def plan(net: nn.Module, analysis: Analysis, kept: Mask, dropped: Sequence[str] = ()) -> Plan:
    """The plan that keeps some labels and leaves out some blocks."""
    cuts: dict[str, tuple[Cut, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors_of(net).items():
        found, shape = [], list(tensor.shape)
        for dim, axis in enumerate(analysis.axes(name)):
            if len(axis) and not kept[axis].all():
                index = np.flatnonzero(kept[axis])
                shape[dim] = len(index)
                consecutive = int(index[-1] - index[0]) == len(index) - 1
                found.append(Cut(dim, int(index[0]), len(index), None if consecutive else torch.from_numpy(index)))
        if found:
            cuts[name], shapes[name] = tuple(found), tuple(shape)
    attributes = {key: _count_kept(analysis, axes, kept) for key, axes in analysis.attributes.items()}
    for name, module in net.named_modules():
        weight = f"{name}.weight" if name else "weight"
        norm = f"{name}.running_mean" if name else "running_mean"
        if weight in shapes or norm in shapes:
            for key, value in _sizes(module, shapes.get(weight, shapes.get(norm, ()))).items():
                attributes[name, key] = value
    changed = [
        (name, key, value) for (name, key), value in attributes.items() if vars(net.get_submodule(name))[key] != value
    ]
    features = {i: _count_kept(analysis, axis, kept) for i, axis in analysis.features.items()}
    return Plan(cuts, tuple(changed), tuple(dropped), features)


def _count_kept(analysis: Analysis, axes: Any, kept: Mask) -> Any:
    """The number of kept labels, or a list of them."""
    if isinstance(axes, list | tuple):
        return type(axes)(_count_kept(analysis, axis, kept) for axis in axes)
    return int(kept[analysis.labels.roots(axes)].sum())


def _sizes(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Attributes of a layer whose weight has a shape."""
    if isinstance(module, _ConvNd):
        transposed = isinstance(module, _ConvTransposeNd)
        full = module.weight.shape
        groups = module.groups * shape[0] // full[0] if module.groups > 1 else 1
        first, second = shape[0], shape[1] * groups
        return {
            "in_channels": first if transposed else second,
            "out_channels": second if transposed else first,
            "groups": groups,
        }
    if isinstance(module, nn.Linear):
        return {"out_features": shape[0], "in_features": shape[1]}
    if isinstance(module, _NormBase):
        return {"num_features": shape[0]}
    if isinstance(module, nn.LayerNorm):
        return {"normalized_shape": shape}
    if isinstance(module, nn.GroupNorm):
        groups = module.num_groups * shape[0] // module.num_channels if module.num_groups > 1 else 1
        return {"num_channels": shape[0], "num_groups": groups}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    return {}


def _owner(net: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """The dict of a module that contains a tensor, and its key."""
    path, _, key = name.rpartition(".")
    module = net.get_submodule(path)
    return (module._parameters if key in module._parameters else module._buffers), key


Replacement = tuple[dict[str, Any], str, Any]
"""A dict of a module, a key, and the value that it gets."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A plan for one network: where its values go.

    Attributes:
        net: The network.
        sizes: Attributes and containers to replace.
        tensors: Tensors to narrow.
    """

    net: nn.Module
    sizes: tuple[Replacement, ...]
    tensors: tuple[tuple[dict[str, Any], str, tuple[Cut, ...]], ...]


def bound(net: nn.Module, plan: Plan) -> Bound:
    """Prepares a plan for a network, on the device it is on."""
    sizes = [(vars(net.get_submodule(name)), key, value) for name, key, value in plan.attributes]
    for container in dict.fromkeys(name.rpartition(".")[0] for name in plan.dropped):
        module = net.get_submodule(container)
        gone = {name.rpartition(".")[2] for name in plan.dropped if name.rpartition(".")[0] == container}
        last = max(i for i, key in enumerate(module._modules) if key not in gone)
        children = {
            key: nn.Identity() if key in gone else child
            for i, (key, child) in enumerate(module._modules.items())
            if i <= last
        }
        sizes.append((vars(module), "_modules", children))
    tensors = []
    for name, cuts in plan.cuts.items():
        if not within(name, plan.dropped):
            owner, key = _owner(net, name)
            tensors.append((owner, key, tuple(cut.on(owner[key].device) for cut in cuts)))
    return Bound(net, tuple(sizes), tuple(tensors))


@contextlib.contextmanager
def replaced(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Sets values for the duration of the context."""
    undo = []
    try:
        for target, key, value in replacements:
            undo.append((target, key, target[key]))
            target[key] = value
        yield
    finally:
        for target, key, value in reversed(undo):
            target[key] = value


@contextlib.contextmanager
def narrowed(how: Bound) -> Iterator[None]:
    """Makes the network the narrowed one for the duration of the context; gradients reach its own parameters."""
    parts = []
    for owner, key, cuts in how.tensors:
        tensor = owner[key]
        for cut in cuts:
            tensor = cut.of(tensor)
        parts.append((owner, key, tensor))
    with replaced((*how.sizes, *parts)):
        yield


@torch.no_grad()
def extracted(net: nn.Module, plan: Plan, *, share: bool = False) -> nn.Module:
    """A copy of the narrowed network: the same classes with smaller layers and their own weights.

    Args:
        net: The network at full width.
        plan: What to keep.
        share: The parameters are views of those of ``net`` and require no gradients; buffers are copies. Parameters
            that keep indices that are not consecutive are copies too.
    """
    copies: dict[int, Any] = {}
    how = bound(net, plan)
    for owner, key, cuts in how.tensors:
        part = owner[key]
        for cut in cuts:
            part = cut.of(part)
        is_parameter = isinstance(owner[key], nn.Parameter)
        part = part.detach()
        if not (share and is_parameter):
            part = part.clone(memory_format=torch.contiguous_format)
        copies[id(owner[key])] = nn.Parameter(part, not share and owner[key].requires_grad) if is_parameter else part
    for parameter in net.parameters() if share else ():
        copies.setdefault(id(parameter), nn.Parameter(parameter.detach(), False))
    with replaced(how.sizes):
        static = copy.deepcopy(net, copies)
    for i, channels in plan.features.items():
        vars(static)["feature_info"][i]["num_chs"] = channels
    return static
