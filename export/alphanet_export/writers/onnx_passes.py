"""Graph rewrites for the CPU kernels of ONNX Runtime and for reproducible files.

Each takes an onnx_ir model and changes it in place. None changes what the graph computes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

_SPATIAL = {2, 3}


def suit_cpu(model: ir.Model) -> None:
    """Applies all rewrites for the CPU in order."""
    pool_globally(model)
    flatten_maps(model)
    resize_sides(model)
    classify_by_convolution(model)
    drop_no_ops(model)
    tidy(model)


def pool_globally(model: ir.Model) -> None:
    """Replaces means over H and W of ``(N, C, H, W)`` by GlobalAveragePool, which runs in the blocked layout."""
    for node in _nodes(model, "ReduceMean"):
        axes = _constant(node, 1)
        source = _input(node, 0)
        if axes is None or _rank(source) != 4 or {axis % 4 for axis in axes} != _SPATIAL:
            continue
        pooled = ir.node("GlobalAveragePool", [source])
        added = [pooled]
        if not node.attributes.get_int("keepdims", 1):
            added.append(ir.node("Flatten", [pooled.outputs[0]], {"axis": 1}))
        _replace(node, added)


def flatten_maps(model: ir.Model) -> None:
    """Replaces a Reshape of ``(N, C, 1, 1)`` to ``(N, C)`` by Flatten, which works for any batch size."""
    for node in _nodes(model, "Reshape"):
        source = _input(node, 0)
        if _rank(source) == 4 and _rank(node.outputs[0]) == 2 and _sides(source) == [1, 1]:
            _replace(node, [ir.node("Flatten", [source], {"axis": 1})])


def resize_sides(model: ir.Model) -> None:
    """Limits a Resize to fixed sizes to the axes H and W, so that no shape is computed for a dynamic batch."""
    for node in _nodes(model, "Resize"):
        sides = _sides(node.outputs[0])
        if len(node.inputs) < 4 or node.inputs[3] is None or sides is None:
            continue
        node.replace_input_with(3, _constant_of(model, f"{node.outputs[0].name}_sides", np.array(sides, np.int64)))
        node.attributes["axes"] = ir.AttrInt64s("axes", sorted(_SPATIAL))


def classify_by_convolution(model: ir.Model) -> None:
    """Replaces the classifier by a 1x1 convolution if the batch size is 1.

    ONNX Runtime runs the convolution in its blocked layout, which is faster than a matrix product of one row. With more
    rows the matrix product is faster, so it is kept for other batch sizes.
    """
    for node in _nodes(model, "Gemm"):
        pooled, weight = _input(node, 0).producer(), ir.convenience.get_const_tensor(_input(node, 1))
        plain = node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1.0
        if pooled is None or pooled.op_type != "Flatten" or weight is None or not plain or len(node.inputs) != 3:
            continue
        source = _input(pooled, 0)
        if source.shape is None or source.shape[0] != 1 or _sides(source) != [1, 1]:
            continue
        matrix = weight.numpy() if node.attributes.get_int("transB", 0) else weight.numpy().T
        kernel = _constant_of(model, f"{_input(node, 1).name}_1x1", np.ascontiguousarray(matrix[:, :, None, None]))
        conv = ir.node("Conv", [source, kernel, _input(node, 2)], {"kernel_shape": [1, 1]})
        conv.outputs[0].name = f"{node.outputs[0].name}_map"
        _replace(node, [conv, ir.node("Flatten", conv.outputs, {"axis": 1})])


def drop_no_ops(model: ir.Model) -> None:
    """Removes Identity, Dropout, Casts to the same type, and unused nodes and opsets."""
    for kind in ("Dropout", "Cast"):
        for node in _nodes(model, kind):
            source, target = _input(node, 0), node.outputs[0]
            if kind == "Cast" and (source.dtype is None or source.dtype != target.dtype):
                continue
            _replace(node, [ir.node("Identity", [source])])
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)


def name_batch(model: ir.Model, name: str = "batch") -> None:
    """Names the first axis of every input and output ``name`` unless it is fixed."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([name, *value.shape[1:]])


def tidy(model: ir.Model) -> None:
    """Removes information about the exporting machine (stack traces, paths); names nodes by operator and number."""
    graph = model.graph
    counts: Counter[str] = Counter()
    model.metadata_props.clear()
    model.doc_string = graph.doc_string = None
    graph.name, model.producer_name, model.producer_version = "alphanet", "alphanet-export", None
    graph.metadata_props.clear()
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        node.name = f"{node.op_type}_{counts[node.op_type]}"
        counts[node.op_type] += 1
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
        if value.const_value is not None:
            value.const_value.doc_string = None


def _nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    """The nodes of a standard operator, in order."""
    return [node for node in model.graph if node.op_type == op_type and node.domain == ""]


def _input(node: ir.Node, index: int) -> ir.Value:
    """An input that must exist."""
    value = node.inputs[index]
    assert value is not None
    return value


def _rank(value: ir.Value) -> int | None:
    """The number of dimensions; None if unknown."""
    return None if value.shape is None else len(value.shape)


def _sides(value: ir.Value) -> list[int] | None:
    """Height and width of a feature map; None if unknown."""
    if value.shape is None or len(value.shape) != 4:
        return None
    sides = [side for side in value.shape[2:] if isinstance(side, int)]
    return sides if len(sides) == 2 else None


def _constant(node: ir.Node, index: int) -> list[int] | None:
    """The integers of a constant input; None if it is absent or computed."""
    if index >= len(node.inputs) or node.inputs[index] is None:
        return None
    tensor = ir.convenience.get_const_tensor(_input(node, index))
    return None if tensor is None else [int(v) for v in tensor.numpy().reshape(-1)]


def _constant_of(model: ir.Model, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """A new constant of the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(value)
    return value


def _replace(node: ir.Node, added: list[ir.Node]) -> None:
    """Replaces a node by others; the output of the last one gets the name, type and uses of the node's output."""
    old, new = node.outputs[0], added[-1].outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], added, [old], [new])
