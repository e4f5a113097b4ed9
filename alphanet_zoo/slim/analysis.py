"""Finds the groups of channels of a network, its droppable blocks and its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from alphanet_zoo.slim.call import Product
from alphanet_zoo.slim.choices import ChainSpec
from alphanet_zoo.slim.cost import Length
from alphanet_zoo.slim.labels import Conflict, FixedLabels, Labelling, Labels, restricted
from alphanet_zoo.slim.trace import Event, Trace, tensors_of, trace

KEPT = "it is one of keep"
"""Reason for the layers that the user keeps."""

Mask = npt.NDArray[np.bool_]
Term = tuple[int, list[Length], int]


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are kept or removed together, everywhere in the network.

    Attributes:
        name: The layer that computes them.
        atoms: Representatives of their labels, in the order of the channels.
        unit: Channels per atom (more than 1 where a grouped convolution ties them).
        stage: Number of the stage; a stage ends where the map becomes smaller.
    """

    name: str
    atoms: Labelling
    unit: int
    stage: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.atoms) * self.unit


@dataclass(eq=False)
class Analysis:
    """What is known of a network.

    Attributes:
        labels: Its labels.
        tensors: Labels along each dimension of each parameter and buffer, empty for a dimension of length 1.
        evaluation: The trace of a forward pass in evaluation, at the largest resolution.
        training: The trace of a forward pass in training.
        groups: The groups of channels.
        chains: The droppable blocks.
        attributes: Attributes of modules that are numbers of channels, by module and name: the labels of the channels,
            or a list of them for a list of numbers.
        features: Labels of the channels of each entry of timm's ``feature_info``, by position.
        products: Multiply-accumulates at each resolution.
        ordered: Labels of channels whose order matters.
        norm_weights: Names of the weights of batch norms.
    """

    labels: Labels
    tensors: dict[str, list[Labelling]]
    evaluation: Trace = field(default_factory=Trace)
    training: Trace = field(default_factory=Trace)
    groups: list[Group] = field(default_factory=list)
    chains: list[ChainSpec] = field(default_factory=list)
    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    features: dict[int, Labelling] = field(default_factory=dict)
    products: list[list[Product]] = field(default_factory=list)
    ordered: list[Labelling] = field(default_factory=list)
    norm_weights: frozenset[str] = frozenset()

    def kept(self, atoms: Sequence[int]) -> Mask:
        """Whether each label is kept, ``(labels,)``, if each group keeps its first atoms."""
        mask = np.ones(len(self.labels), dtype=bool)
        for group, count in zip(self.groups, atoms, strict=True):
            mask[group.atoms[count:]] = False
        return mask

    def axes(self, name: str) -> list[Labelling]:
        """Representatives along each dimension of a tensor; empty for a dimension that is fixed."""
        found = [self.labels.roots(labels) for labels in self.tensors[name]]
        return [labels if labels.any() else labels[:0] for labels in found]


def analyse(net: nn.Module, images: Sequence[Tensor], keep: Sequence[str] = ()) -> Analysis:
    """Traces a network in evaluation and training until nothing new is learned about its labels.

    Args:
        net: The network; its batch norms must not track statistics. It is left in training mode.
        images: ``(BATCH, C, H, W)`` at each resolution, the largest last.
        keep: Names of modules whose convolutions and linear layers keep all of their output channels.

    Raises:
        Failure: The network fails.
        UsageError: The computation depends on the values in the images.
    """
    labels = Labels()
    kernels = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, _ConvNd)}
    tensors = {
        name: [labels.new(n) if n > 1 and (d < 2 or name not in kernels) else np.zeros(0, dtype=np.int64)
               for d, n in enumerate(t.shape)]
        for name, t in tensors_of(net).items()
    }  # fmt: skip
    analysis = Analysis(labels, tensors)
    for name, module in net.named_modules():
        inside = any(name == each or name.startswith(f"{each}.") for each in keep)
        if inside and isinstance(module, _ConvNd | nn.Linear):
            labels.freeze(tensors[f"{name}.weight"][1 if getattr(module, "transposed", False) else 0], KEPT)
    before = -1
    while labels.changed != before:
        before = labels.changed
        runs = [trace(net.eval(), batch, labels, tensors) for batch in images]
        analysis.evaluation, analysis.products = runs[-1], [run.products for run in runs]
        analysis.training = trace(net.train(), images[-1], labels, tensors)
        first = {**analysis.evaluation.first, **analysis.training.first}
        used = {name for name, t in tensors_of(net).items() if id(t) in first}
        labels.place = ""
        for name in tensors.keys() - used:
            for axis in tensors[name]:
                labels.freeze(axis, f"the forward pass does not use {name}")
        for name in tensors:
            for axis in [axis for axis in analysis.axes(name) if len(axis)][2:]:
                labels.freeze(axis, f"{name} has channels along more than two dimensions")
    analysis.ordered = analysis.evaluation.ordered
    named = tensors_of(net)
    analysis.norm_weights = frozenset(n for n in named if id(named[n]) in analysis.evaluation.norm_weights)
    regroup(net, analysis)
    return analysis


def regroup(net: nn.Module, analysis: Analysis) -> None:
    """Sets ``analysis.groups`` from its labels: atoms that occur equally often in the same tensors."""
    labels, named = analysis.labels, tensors_of(net)
    signature = np.zeros(len(labels), dtype=np.uint64)
    order = {**analysis.training.first, **analysis.evaluation.first}
    names = sorted((n for n in named if id(named[n]) in order), key=lambda n: order[id(named[n])])
    axes = {name: [axis for axis in analysis.axes(name) if len(axis)] for name in names}
    arrays = [axis for name in names for axis in axes[name]]
    unit = np.full(len(labels), np.iinfo(np.int64).max)
    for axis in arrays:
        roots, counts = np.unique(axis, return_counts=True)
        unit[roots] = np.minimum(unit[roots], counts)
    for record in (analysis.evaluation, analysis.training):
        arrays += [m for event in record.events for m in event.labellings]
    for number, array in enumerate(arrays):
        roots, counts = np.unique(labels.roots(array), return_counts=True)
        mixed = np.uint64((number + 1) * 0x9E3779B97F4A7C15 % 2**64) + counts.astype(np.uint64)
        signature[roots] = (signature[roots] ^ mixed) * np.uint64(0x100000001B3)
    analysis.groups = []
    done = np.zeros(len(labels), dtype=bool)
    done[0] = True
    stages = _stages(analysis.evaluation)
    for name in names:
        for axis in axes[name]:
            atoms = axis[np.sort(np.unique(axis, return_index=True)[1])]
            atoms = atoms[~done[atoms]]
            done[atoms] = True
            for key in dict.fromkeys(signature[atoms].tolist()):
                members = atoms[signature[atoms] == np.uint64(key)]
                module = name.rpartition(".")[0]
                analysis.groups.append(Group(module, members, int(unit[members[0]]), stages.get(module, 0)))


def _stages(record: Trace) -> dict[str, int]:
    """The stage of each module: the number of times that the map has become smaller before its output."""
    stages, stage, least = {}, 0, 0
    for event in record.events:
        side = event.shape[-1] if len(event.shape) == 4 else 0
        if side > 1 and (side < least or not least):
            stage, least = stage + bool(least), side
        stages[event.module] = stage
    return stages


def find_chains(net: nn.Module, analysis: Analysis) -> list[ChainSpec]:
    """The residual blocks that can be dropped, by their container.

    A block qualifies if its output has the shape and the labels of its input, which it adds. At least half of the
    modules of a container stay.
    """
    record, labels = analysis.evaluation, analysis.labels
    chains = []
    for container, module in net.named_modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        names = [f"{container}.{child}" if container else child for child, _ in module.named_children()]
        blocks = []
        for name in names:
            if name in record.residual and name in record.outputs:
                (shape, entering), (out, leaving) = record.inputs[name], record.outputs[name]
                a, b = (sorted((m.shape, m.tobytes()) for m in labels.canonical(ms)) for ms in (entering, leaving))
                if shape == out and a == b:
                    blocks.append(name)
        most = min(len(blocks), len(names) // 2)
        if most:
            chains.append(ChainSpec(container, tuple(blocks), len(names), len(names) - most))
    return chains


def cost_terms(net: nn.Module, analysis: Analysis) -> tuple[list[list[Term]], list[Term]]:
    """The multiply-accumulates at each resolution, and the parameters, as terms for `cost_of`."""
    owner = np.full(len(analysis.labels), -1)
    for i, group in enumerate(analysis.groups):
        owner[group.atoms] = i
    blocks = [block for chain in analysis.chains for block in chain.blocks]

    def length(axis: Labelling) -> Length:
        roots = analysis.labels.roots(axis)
        groups, counts = np.unique(owner[roots[roots > 0]], return_counts=True)
        kept = {int(g): int(n) // len(analysis.groups[g].atoms) for g, n in zip(groups, counts, strict=True)}
        return int((roots == 0).sum()), kept

    def block(module: str) -> int:
        return next((i for i, name in enumerate(blocks) if within(module, [name])), -1)

    macs = [[(p.constant, [length(f) for f in p.factors], block(p.module)) for p in ps] for ps in analysis.products]
    params = []
    for name, parameter in net.named_parameters():
        axes = analysis.axes(name) if name in analysis.tensors else [np.zeros(0, dtype=np.int64)] * parameter.dim()
        constant = math.prod(n for n, axis in zip(parameter.shape, axes, strict=True) if not len(axis))
        params.append((constant, [length(axis) for axis in axes if len(axis)], block(name)))
    return macs, params


def within(module: str, names: Sequence[str]) -> bool:
    """Whether a module is one of ``names`` or part of one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def check(analysis: Analysis, narrowed: nn.Module, images: Tensor, kept: Mask, dropped: Sequence[str]) -> None:
    """Checks that a narrowed network computes with the channels that it should.

    It is traced with the labels of the kept channels. Every operator must have run in the full network as well, every
    tensor must have the labels that are left of the full network's, and no operator may combine different channels.

    Args:
        analysis: The analysis of the full network.
        narrowed: The narrowed network, in either mode.
        images: ``(BATCH, C, H, W)``.
        kept: Whether each label is kept.
        dropped: Names of the blocks that were dropped.

    Raises:
        Conflict: It does not; ``labels`` are the labels concerned.
    """
    full = analysis.training if narrowed.training else analysis.evaluation
    labels = FixedLabels(len(analysis.labels))
    tensors = {}
    for name in tensors_of(narrowed):
        axes = analysis.axes(name)
        tensors[name] = [axis[kept[axis]] for axis in axes]
    expected = iter([e for e in full.events if not within(e.module, dropped)])

    def compare(have: Event) -> None:
        want = next(expected, None)
        if want is None or want.operator != have.operator:
            raise Conflict(f"operator {have.operator} in {have.module} runs only if narrowed", have.inputs)
        _compare(analysis.labels, labels, want, have, kept)

    trace(narrowed, images, labels, tensors, compare)
    if next(expected, None) is not None:
        raise Conflict("the narrowed network runs fewer operators", [])


def _compare(full: Labels, labels: Labels, want: Event, have: Event, kept: Mask) -> None:
    """Checks the output of an operator of a narrowed network against that of the full network."""
    where = f"operator {want.operator} in {want.module}"
    concerned = [*want.inputs, *want.labellings]
    shape, left = list(want.shape), []
    for labelling in full.canonical(want.labellings):
        part = restricted(labelling, kept)
        if part is None:
            raise Conflict(f"{where} interleaves channels", concerned)
        for dim, length in enumerate(part.shape):
            shape[dim] = length if labelling.shape[dim] > 1 else shape[dim]
        left.append(part)
    if tuple(shape) != have.shape:
        raise Conflict(f"{where} gives the shape {have.shape}, not {tuple(shape)}", concerned)
    if not _equal(labels.canonical(left), have.labellings):
        raise Conflict(f"{where} moves channels differently", concerned)


def _equal(a: Sequence[Labelling], b: Sequence[Labelling]) -> bool:
    """Whether two lists of labellings are the same in any order."""
    one, other = (sorted((m.shape, m.tobytes()) for m in ms) for ms in (a, b))
    return one == other
