"""Operator counts of an ONNX graph before and after ONNX Runtime's optimisation."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from alphanet_export.onnx_model import PREPROCESSING_PREFIX, graphs_of, load_proto, open_session

LEFTOVERS = ("BatchNormalization", "Cast", "Dropout", "Identity")
"""Operators that a clean export does not contain."""

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "QLinearConv")
_FLOATS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
_BLOCKED, _FUSED = "com.microsoft.nchwc", "com.microsoft"


@dataclass(frozen=True)
class GraphHealth:
    """Counts of nodes in the file, and in the graph that ONNX Runtime runs at full optimisation on this CPU.

    Embedded preprocessing is not counted.

    Args:
        nodes: Nodes in the file.
        optimized_nodes: Nodes that run.
        leftovers: Nodes in the file that a clean export does not contain, see `LEFTOVERS`.
        resizes: Resize nodes in the file: 1 if the graph resizes its input to the arch's resolution, else 0.
        convolutions: Convolutions that run, of any kind.
        blocked_convolutions: Convolutions in the CPU's blocked layout, which has the fast kernels.
        fused_nodes: Nodes that combine several operators: those of Microsoft's domain (FusedConv, QuickGelu, ...), and
            blocked convolutions with an activation or an addition inside.
        reorder_nodes: Nodes that convert to or from the blocked layout.
        precision: float32, int8 (if the graph quantises), or the type of the convolutions' weights.
        operators: Nodes in the file by operator.
        optimized_operators: Nodes that run by operator, with the domain if it is not the standard one.
    """

    nodes: int
    optimized_nodes: int
    leftovers: int
    resizes: int
    convolutions: int
    blocked_convolutions: int
    fused_nodes: int
    reorder_nodes: int
    precision: str
    operators: Mapping[str, int]
    optimized_operators: Mapping[str, int]


def measure_health(model_path: str | os.PathLike[str]) -> GraphHealth:
    """Counts a file's nodes before and after ONNX Runtime's full optimisation.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: It cannot be loaded.
    """
    proto = load_proto(model_path)
    before = _nodes(proto)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(model_path, "all", optimized=optimized)
        after = _nodes(load_proto(optimized))
    operators = Counter(node.op_type for node in before)
    convolutions = [node for node in after if node.op_type in ("Conv", "FusedConv", "ConvInteger", "QLinearConv")]
    return GraphHealth(
        nodes=len(before),
        optimized_nodes=len(after),
        leftovers=sum(operators[name] for name in LEFTOVERS),
        resizes=operators["Resize"],
        convolutions=len(convolutions),
        blocked_convolutions=sum(node.domain == _BLOCKED for node in convolutions),
        fused_nodes=sum(map(_is_fused, after)),
        reorder_nodes=sum(node.op_type in ("ReorderInput", "ReorderOutput") for node in after),
        precision=_precision(proto, before),
        operators=_ranked(operators),
        optimized_operators=_ranked(Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in after)),
    )


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Every node of the network, without constants, which run once at load time, and embedded preprocessing."""
    return [
        node
        for graph in graphs_of(proto)
        for node in graph.node
        if node.op_type != "Constant" and not node.name.startswith(PREPROCESSING_PREFIX)
    ]


def _precision(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> str:
    """The precision of the convolutions of a file."""
    if any(node.op_type in _QUANTISED for node in nodes):
        return "int8"
    types = {tensor.name: tensor.data_type for graph in graphs_of(proto) for tensor in graph.initializer}
    found = {types[node.input[1]] for node in nodes if node.op_type == "Conv" and node.input[1] in types}
    return " and ".join(sorted(_FLOATS.get(kind, f"type {kind}") for kind in found)) or "float32"


def _is_fused(node: onnx.NodeProto) -> bool:
    """Whether a node of an optimised graph combines several operators."""
    if node.domain == _BLOCKED and node.op_type == "Conv":
        return len(node.input) > 3 or any(attribute.name == "activation" for attribute in node.attribute)
    return node.domain == _FUSED


def _ranked(counts: Counter[str]) -> dict[str, int]:
    """Counts, the largest first, ties by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
