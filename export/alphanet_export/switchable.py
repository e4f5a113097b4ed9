"""One ONNX file with several subnets of a supernet, which share its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from alphanet_export.freeze import freeze
from alphanet_export.onnx_model import FloatArray, open_session
from alphanet_export.quiet import quiet
from alphanet_export.verify.measure.parity import (
    PARITY_LEVELS,
    SYNTHETIC_IMAGES,
    TOLERANCE,
    Parity,
    allow_rounding,
    compare_logits,
    synthetic_images,
    torch_logits,
)
from alphanet_export.writers.onnx_passes import drop_no_ops, flatten_maps, pool_globally, resize_sides, tidy
from alphanet_export.writers.to_onnx import INPUT, OUTPUT, lower_ir_version
from alphanet_zoo.files import replacing
from alphanet_zoo.nn.family import Network

SELECTOR = "arch"
"""Name of the input that selects the arch: an int64 scalar."""

OPSET = 18

_ROUNDING = 2.0**-23
"""Relative rounding error of a product in float32."""


Cuts = Mapping[str, Mapping[str, Sequence[Any]]]
"""For each arch, the kept indices (`alphanet_zoo.slim.narrow.Cut`) of each tensor that is smaller, by its name."""


@dataclass(frozen=True)
class SwitchableFile:
    """An ONNX file with several archs.

    Attributes:
        path: The file.
        size: Its size in bytes.
        archs: Names of the archs; their positions are the values of the input ``arch``.
        parities: Comparison with PyTorch, by arch.
    """

    path: Path
    size: int
    archs: tuple[str, ...]
    parities: Mapping[str, Parity]


def export_switchable(
    nets: Mapping[str, Network], shared: Mapping[str, Tensor], cuts: Cuts, path: Path, *, dynamic_batch: bool
) -> SwitchableFile:
    """Writes the file, after comparing each arch with its network.

    Args:
        nets: The static networks, in the order of the input ``arch``.
        shared: The supernet's parameters, by the names that they have in the static networks.
        cuts: What each arch keeps of them.
        path: The file.
        dynamic_batch: Accept any number of images; otherwise one.

    Raises:
        ParityError: An arch does not compute what its network computes.
    """
    size = max(net.arch.resolution for net in nets.values())
    builder = _Builder(shared)
    metadata: list[dict[str, Any]] = []
    for position, (name, net) in enumerate(nets.items()):
        frozen = freeze(net, img_size=size, dynamic_batch=dynamic_batch)
        with quiet():
            program = torch.onnx.export(
                frozen.program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
                verbose=False,
            )  # fmt: skip
        assert program is not None
        for rewrite in (pool_globally, flatten_maps, resize_sides, drop_no_ops, tidy):
            rewrite(program.model)
        builder.add(f"{position}/", ir.to_proto(program.model), cuts[name])
        space: Any = net.space
        macs = space.count_macs(net.arch, net.num_classes)
        metadata.append({"name": name, "arch": net.arch.to_dict(), "macs": macs})
        preprocessing = frozen.preprocessing
    first = next(iter(nets.values()))
    entries = {
        "alphanet.switchable": json.dumps(metadata),
        "alphanet.preprocessing": json.dumps(preprocessing.to_dict()),
        "alphanet.labels": json.dumps(first.pretrained_cfg.get("label_names")),
    }
    content = builder.model(entries, size, first.num_classes, dynamic_batch).SerializeToString(deterministic=True)
    parities = _parities(content, nets, size)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return SwitchableFile(path, len(content), tuple(nets), parities)


class _Builder:
    """Collects the graphs of the archs, and stores each weight once."""

    def __init__(self, shared: Mapping[str, Tensor]) -> None:
        """Starts without archs."""
        self._shared = shared
        self._stored: dict[str, TensorProto] = {}
        self._branches: list[onnx.GraphProto] = []
        self._opsets: dict[str, int] = {}

    def add(self, prefix: str, model: onnx.ModelProto, cuts: Mapping[str, Sequence[Any]]) -> None:
        """Adds the graph of an arch; its names get ``prefix``."""
        assert not model.functions
        graph, nodes, names = model.graph, list[onnx.NodeProto](), {INPUT: INPUT}
        for tensor in graph.initializer:
            names[tensor.name] = self._reference(prefix, tensor, cuts, nodes)
        for node in graph.node:
            for value in node.output:
                names[value] = prefix + value if value else ""
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:], copy.metadata_props[:]
            copy.name = prefix + node.name
            copy.input.extend(names[value] if value else "" for value in node.input)
            copy.output.extend(names[value] for value in node.output)
            nodes.append(copy)
        (output,) = graph.output
        result = onnx.ValueInfoProto()
        result.CopyFrom(output)
        result.name = names[output.name]
        self._branches.append(helper.make_graph(nodes, f"arch{prefix.rstrip('/')}", [], [result]))
        for entry in model.opset_import:
            self._opsets[entry.domain] = max(entry.version, self._opsets.get(entry.domain, 0))

    def _reference(
        self, prefix: str, tensor: TensorProto, cuts: Mapping[str, Sequence[Any]], nodes: list[onnx.NodeProto]
    ) -> str:
        """The name of a tensor in the branch: the shared one, a slice of it, or a copy of its own."""
        whole = self._shared.get(tensor.name)
        if whole is not None:
            own, part, found = numpy_helper.to_array(tensor), whole, cuts.get(tensor.name.removeprefix("net."), ())
            for cut in found:
                part = cut.of(part)
            scale = _scale(part.cpu().numpy(), own)
            if scale is not None:
                self._store(tensor.name, whole.cpu().numpy())
                return self._scaled(prefix, tensor.name, self._sliced(prefix, tensor.name, found, nodes), scale, nodes)
        for name, stored in self._stored.items():
            if name.endswith(f"/{tensor.name}") and _content(stored) == _content(tensor):
                return name
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.name = prefix + tensor.name
        self._stored[copy.name] = copy
        return copy.name

    def _sliced(self, prefix: str, name: str, cuts: Sequence[Any], nodes: list[onnx.NodeProto]) -> str:
        """The name of a part of a shared tensor, computed by nodes of the branch."""
        leading, result = [cut for cut in cuts if cut.index is None], name
        if leading:
            starts, ends = [cut.start for cut in leading], [cut.start + cut.length for cut in leading]
            bounds = [self._integers(values) for values in (starts, ends, [cut.dim for cut in leading])]
            result = f"{prefix}{name}/sliced"
            nodes.append(helper.make_node("Slice", [name, *bounds], [result], name=result))
        for cut in cuts:
            if cut.index is not None:
                source, result = result, f"{prefix}{name}/gathered{cut.dim}"
                indices = self._integers(cut.index.tolist())
                nodes.append(helper.make_node("Gather", [source, indices], [result], name=result, axis=cut.dim))
        return result

    def _scaled(self, prefix: str, name: str, source: str, scale: FloatArray, nodes: list[onnx.NodeProto]) -> str:
        """The name of a tensor times a factor per output channel, that of the batch norm which was folded into it."""
        if (scale == 1).all():
            return source
        factors = self._store(f"{prefix}{name}/scale", scale)
        result = f"{prefix}{name}/scaled"
        nodes.append(helper.make_node("Mul", [source, factors], [result], name=result))
        return result

    def _integers(self, values: Sequence[int]) -> str:
        """The name of a stored list of integers."""
        return self._store("int64/" + ",".join(map(str, values)), np.array(values, np.int64))

    def _store(self, name: str, values: Any) -> str:
        """Stores a tensor once; returns its name."""
        if name not in self._stored:
            self._stored[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def model(self, metadata: Mapping[str, str], size: int, classes: int, dynamic_batch: bool) -> onnx.ModelProto:
        """The whole model: a chain of If nodes that compares the selector with 0, 1, ...; the last arch is the rest."""
        batch: str | int = "batch" if dynamic_batch else 1
        branch = self._branches[-1]
        for position in range(len(self._branches) - 2, -1, -1):
            branch = self._choice(position, self._branches[position], branch)
        inputs = [
            helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, 3, size, size]),
            helper.make_tensor_value_info(SELECTOR, TensorProto.INT64, []),
        ]
        output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, classes])
        nodes = [*branch.node, helper.make_node("Identity", [branch.output[0].name], [OUTPUT], name=OUTPUT)]
        graph = helper.make_graph(nodes, "switchable", inputs, [output], list(self._stored.values()))
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="alphanet-zoo")
        lower_ir_version(model)
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return model

    def _choice(self, position: int, chosen: onnx.GraphProto, other: onnx.GraphProto) -> onnx.GraphProto:
        """A graph that runs ``chosen`` if the selector is ``position``, otherwise ``other``."""
        value = self._store(f"int64/scalar{position}", np.array(position, np.int64))
        is_chosen, result = f"is{position}", f"chosen{position}"
        nodes = [
            helper.make_node("Equal", [SELECTOR, value], [is_chosen], name=is_chosen),
            helper.make_node("If", [is_chosen], [result], name=result, then_branch=chosen, else_branch=other),
        ]
        output = onnx.ValueInfoProto()
        output.CopyFrom(chosen.output[0])
        output.name = result
        return helper.make_graph(nodes, f"choice{position}", [], [output])


def _scale(part: FloatArray, own: FloatArray) -> FloatArray | None:
    """The factor per index of the first dimension by which a tensor differs from a part of the shared one.

    Returns:
        ``(C, 1, ...)`` float32, with as many dimensions as ``own``; None if the tensors differ in another way.
    """
    if part.shape != own.shape or own.dtype != np.float32:
        return None
    if np.array_equal(part, own):
        return np.ones((1,) * own.ndim, np.float32)
    axes = tuple(range(1, own.ndim))
    wide, target = part.astype(np.float64), own.astype(np.float64)
    squares = (wide * wide).sum(axes, keepdims=True)
    scale = np.divide((wide * target).sum(axes, keepdims=True), squares, where=squares > 0, out=np.ones_like(squares))
    if np.abs(wide * scale - target).max() > _ROUNDING * np.abs(target).max():
        return None
    found: FloatArray = scale.astype(np.float32)
    return found


def _content(tensor: TensorProto) -> tuple[Any, ...]:
    """Type, shape and values of a tensor."""
    return tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()


def _parities(content: bytes, nets: Mapping[str, Network], size: int) -> dict[str, Parity]:
    """Compares each arch of the file with its network, at ONNX Runtime's optimisation levels."""
    sessions = {level: open_session(content, level) for level in PARITY_LEVELS}
    images = synthetic_images(SYNTHETIC_IMAGES, size)
    found = {}
    for position, (name, net) in enumerate(nets.items()):
        runs = {level: _run(session, position) for level, session in sessions.items()}
        parity = compare_logits(runs, "PyTorch", torch_logits(net), images, True, TOLERANCE)
        found[name] = allow_rounding(parity, net, images).check()
    return found


def _run(session: onnxruntime.InferenceSession, position: int) -> Any:
    """One arch of the file as a function from images to logits."""

    def run(images: FloatArray) -> FloatArray:
        return run_arch(session, position, images)

    return run


def run_arch(session: onnxruntime.InferenceSession, position: int, images: FloatArray) -> FloatArray:
    """Logits ``(N, classes)`` of one arch of a switchable file.

    Args:
        session: The file.
        position: Position of the arch in the file.
        images: Normalised images ``(N, 3, S, S)``, float32.
    """
    selector = np.array(position, np.int64)
    batch = session.get_inputs()[0].shape[0]
    step = batch if isinstance(batch, int) else len(images)
    parts = [
        session.run(None, {INPUT: np.ascontiguousarray(images[i : i + step]), SELECTOR: selector})[0]
        for i in range(0, len(images), step)
    ]
    return np.concatenate(parts)
