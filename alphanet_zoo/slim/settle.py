"""Checks the groups of an analysis on narrowed networks, and fixes those that cannot be narrowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alphanet_zoo.slim.analysis import Analysis, Group, check, find_chains, regroup, within
from alphanet_zoo.slim.choices import atom_choices
from alphanet_zoo.slim.labels import Conflict, Labelling, varying
from alphanet_zoo.slim.narrow import bound, extracted, narrowed, plan

RANDOM_ARCHS = 6
"""Random archs at which each network is checked, beside the narrowest ones."""

_COMPARED = 3
"""The first of these archs are also checked in training, and by comparing outputs."""

_OF_LAYERS = ("in_channels", "out_channels", "groups", "num_features", "normalized_shape", "in_features",
              "out_features", "num_channels", "num_groups", "num_parameters")  # fmt: skip
"""Attributes of torch's own layers, which `narrow.plan` sets."""

_CUTTING = ("split", "split_with_sizes", "slice", "view", "_unsafe_view", "narrow", "expand")
"""Operators whose sizes a module often stores as an attribute."""

_SIZES = ("num_features", "head_hidden_size", "embed_dim", "num_chs")


def choices(group: Group, low: float, high: float, divisor: int) -> tuple[int, ...]:
    """The numbers of atoms that a group can keep; see `alphanet_zoo.slim.space.atom_choices`."""
    return atom_choices(len(group.atoms), group.unit, low, high, divisor)


def settle(
    net: nn.Module, analysis: Analysis, images: Tensor, low: float, high: float, divisor: int, depth: bool
) -> None:
    """Checks ``analysis`` at several archs; changes it until all are right.

    If a narrowed network fails or moves channels differently, the attributes of the module that hold numbers of
    channels are made to follow them, and groups of the same size are tied. If it still fails, the groups concerned are
    fixed.

    Args:
        net: The network; left in training mode.
        analysis: Its analysis.
        images: ``(BATCH, C, H, W)``.
        low: Least share of the channels.
        high: Greatest share.
        divisor: Divisor of the number of channels.
        depth: Whether blocks can be dropped.
    """
    _describe_sizes(net, analysis)
    tried: dict[type, list[tuple[str, str]]] = {}
    failed = 0
    while True:
        analysis.chains = find_chains(net, analysis) if depth else []
        before = analysis.labels.changed
        archs = list(_archs(analysis, low, high, divisor))
        try:
            for number in [failed, *range(failed), *range(failed + 1, len(archs))]:
                failed = number
                _check_arch(net, analysis, images, *archs[number], full=number < _COMPARED)
        except Conflict as conflict:
            _resolve(net, analysis, conflict, tried)
        else:
            if analysis.labels.changed == before:
                break
        regroup(net, analysis)
    net.train()


def _archs(analysis: Analysis, low: float, high: float, divisor: int) -> Iterator[tuple[list[int], list[str]]]:
    """Archs to check: the narrowest with and without all blocks, and random ones, every group drawn independently."""
    rng = np.random.default_rng(0)
    options = [choices(group, low, high, divisor) for group in analysis.groups]
    droppable = [(chain.blocks, len(chain.blocks) - (chain.length - chain.least)) for chain in analysis.chains]
    yield [option[0] for option in options], []
    if droppable:
        yield [option[0] for option in options], [block for blocks, least in droppable for block in blocks[least:]]
    for _ in range(RANDOM_ARCHS):
        dropped = [
            block for blocks, least in droppable for block in blocks[rng.integers(least, len(blocks) + 1) :]
        ]  # fmt: skip
        yield [int(rng.choice(option)) for option in options], dropped


def _check_arch(
    net: nn.Module, analysis: Analysis, images: Tensor, atoms: Sequence[int], dropped: Sequence[str], *, full: bool
) -> None:
    """Checks the structure of one arch; if ``full``, also in training, and the extracted network against the slice."""
    kept = analysis.kept(atoms)
    how = plan(net, analysis, kept, dropped)
    static = extracted(net, how)
    for mode in (False, True) if full else (False,):
        static.train(mode)
        net.train(mode)
        check(analysis, static, images, kept, dropped)
        if not full:
            continue
        with torch.no_grad(), torch.random.fork_rng(devices=[]), narrowed(bound(net, how)):
            torch.manual_seed(0)
            sliced = net(images)
            torch.manual_seed(0)
            apart = static(images)
        if sliced.shape != apart.shape or not torch.allclose(sliced, apart, 1e-4, 1e-5, equal_nan=True):
            raise Conflict("the extracted network differs from the slice", [g.atoms for g in analysis.groups])


def _resolve(net: nn.Module, analysis: Analysis, conflict: Conflict, tried: dict[type, list[tuple[str, str]]]) -> None:
    """Changes ``analysis`` such that a conflict cannot happen again.

    Args:
        net: The network.
        analysis: Its analysis.
        conflict: The conflict.
        tried: Classes whose attributes have been made to follow the channels, with these attributes.
    """
    labels = np.concatenate([m.ravel() for m in conflict.labels]) if conflict.labels else np.zeros(0, dtype=np.int64)
    roots = analysis.labels.roots(np.unique(labels))
    concerned = [g for g in analysis.groups if np.isin(g.atoms, roots).any()]
    analysis.labels.place = ""
    path = conflict.module.split(".") if conflict.module else []
    for depth in range(len(path), -1, -1):
        kind = type(net.get_submodule(".".join(path[:depth])))
        if kind not in tried:
            names = [name for name, module in net.named_modules() if type(module) is kind]
            tried[kind] = [key for name in names for key in _describe_module(net, analysis, name)]
            if tried[kind]:
                return
    if not concerned:
        if _forget_attributes(net, analysis, path, tried):
            return
        concerned = _entering(analysis, path) or analysis.groups
    before = analysis.labels.changed
    for group in concerned[1:] if conflict.labels else []:
        partner = next(g for g in concerned if len(g.atoms) == len(group.atoms))
        analysis.labels.unify(partner.atoms, group.atoms, str(conflict))
    if analysis.labels.changed == before:
        for group in concerned:
            analysis.labels.freeze(group.atoms, str(conflict))


def _forget_attributes(
    net: nn.Module, analysis: Analysis, path: Sequence[str], tried: dict[type, list[tuple[str, str]]]
) -> bool:
    """Makes the attributes of the innermost described module keep their values.

    A conflict without channels can be the fault of such an attribute.

    Returns:
        Whether there was any.
    """
    for depth in range(len(path), -1, -1):
        wrong = tried.get(type(net.get_submodule(".".join(path[:depth]))), [])
        if wrong:
            for key in wrong:
                del analysis.attributes[key]
            wrong.clear()
            analysis.labels.changed += 1
            return True
    return False


def _entering(analysis: Analysis, path: Sequence[str]) -> list[Group]:
    """The groups in the input of the innermost module whose input has any.

    A module may take a size from its input and use it where channels are fixed, as attention does.
    """
    for depth in range(len(path), 0, -1):
        _, labellings = analysis.evaluation.inputs.get(".".join(path[:depth]), ((), []))
        roots = analysis.labels.roots(np.unique(np.concatenate([[0], *(m.ravel() for m in labellings)])))
        groups = [group for group in analysis.groups if np.isin(group.atoms, roots).any()]
        if groups:
            return groups
    return []


def _describe_module(net: nn.Module, analysis: Analysis, name: str) -> list[tuple[str, str]]:
    """Notes which attributes of a module are numbers of channels, by comparing them with the tensors in it.

    Returns:
        The attributes that were not noted before.
    """
    events = [e for e in (*analysis.evaluation.events, *analysis.training.events) if within(e.module, [name])]
    events.sort(key=lambda event: event.module != name or event.operator not in _CUTTING)
    by_length: dict[int, Labelling] = {}
    for event in events:
        for axis in [axis for labelling in (*event.inputs, *event.labellings) for axis in _axes(labelling)]:
            by_length.setdefault(len(axis), axis)
    found: dict[tuple[str, str], Any] = {}
    for key, value in vars(net.get_submodule(name)).items():
        if (name, key) in analysis.attributes or key in _OF_LAYERS:
            continue
        if _is_count(value) and value in by_length:
            found[name, key] = by_length[value]
        elif isinstance(value, list | tuple) and value and all(_is_count(v) and v in by_length for v in value):
            found[name, key] = type(value)(by_length[v] for v in value)
    analysis.attributes |= found
    return list(found)


def _is_count(value: Any) -> bool:
    """Whether an attribute can be a number of channels."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 3


def _axes(labelling: Labelling) -> list[Labelling]:
    """The labels of a labelling that varies along one dimension."""
    return [labelling.ravel()] if len(varying(labelling)) == 1 else []


def _describe_sizes(net: nn.Module, analysis: Analysis) -> None:
    """Notes the attributes by which modules describe their own input and output, such as ``in_features``."""
    record = analysis.evaluation
    for name, module in net.named_modules():
        ends = {"in_": record.inputs.get(name), "out_": record.outputs.get(name)}
        for key, value in vars(module).items():
            end = next((found for prefix, found in ends.items() if key.startswith(prefix) and found), None)
            if _is_count(value) and end is not None:
                axis = next((a for m in end[1] for a in _axes(m) if len(a) == value), None)
                if axis is not None:
                    analysis.attributes[name, key] = axis
    last = {len(axis): axis for event in record.events for m in event.labellings for axis in _axes(m)}
    for key in _SIZES:
        value = vars(net).get(key)
        if _is_count(value) and value in last:
            analysis.attributes["", key] = last[value]
    features = getattr(net, "feature_info", None)
    for i, info in enumerate(features if isinstance(features, list) else []):
        _, labellings = record.outputs.get(info.get("module", ""), ((), [])) if isinstance(info, dict) else ((), [])
        axis = next((a for m in labellings for a in _axes(m) if len(a) == info.get("num_chs")), None)
        if axis is not None:
            analysis.features[i] = axis
