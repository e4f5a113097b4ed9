"""The layers of an exported graph that int8 can be chosen for, one by one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

LAYER_OPERATORS = ("Conv", "Gemm")
FOLLOWERS = ("Sigmoid", "Mul", "Add", "AveragePool", "GlobalAveragePool")
"""Operators that are int8 where the layer before them is: those that ONNX Runtime has integer kernels for."""
FLOAT_PART = ".se."
"""In the name of a layer that stays in float: squeeze-and-excite's, which are tiny and feed a gate."""


@dataclass(frozen=True)
class Layer:
    """A convolution or product with weights, and what follows it up to the next one.

    Args:
        name: Of its weights in the network, such as ``blocks.3.0.conv_pw``.
        node: Its node in the graph.
        followers: Nodes without weights after it: SiLU, the block's addition, pools, squeeze-and-excite's product.
        macs: Multiply-accumulates for one image.
    """

    name: str
    node: str
    followers: tuple[str, ...]
    macs: int


def find_layers(proto: onnx.ModelProto) -> tuple[Layer, ...]:
    """The layers of what `alphanet_export.writers.to_onnx.onnx_bytes` wrote, in the order they run.

    A node without weights belongs to the last layer that it depends on; squeeze-and-excite's layers are none here.
    """
    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    sides = _positions(proto)
    owner: dict[str, int] = {}
    found: list[tuple[str, str, int]] = []
    followers: list[list[str]] = []
    for node in proto.graph.node:
        sources = [owner[name] for name in node.input if name in owner]
        latest = max(sources, default=-1)
        if node.op_type in LAYER_OPERATORS:
            weight = node.input[1]
            name = weight.partition(".weight")[0]
            if FLOAT_PART not in name:
                latest = len(found)
                macs = math.prod(initializers[weight].dims) * sides[node.output[0]]
                found.append((name, node.name, macs))
                followers.append([])
        elif node.op_type in FOLLOWERS and latest >= 0:
            followers[latest].append(node.name)
        owner.update((name, latest) for name in node.output)
    return tuple(
        Layer(name, node, tuple(after), macs) for (name, node, macs), after in zip(found, followers, strict=True)
    )


def nodes_of(layers: Collection[Layer], names: Collection[str]) -> list[str]:
    """The nodes that are int8 where the layers called ``names`` are."""
    return [node for layer in layers if layer.name in names for node in (layer.node, *layer.followers)]


def share_of_macs(layers: Collection[Layer], names: Collection[str]) -> float:
    """The share, 0 to 1, of the layers' multiply-accumulates that those called ``names`` do."""
    return sum(layer.macs for layer in layers if layer.name in names) / sum(layer.macs for layer in layers)


def _positions(proto: onnx.ModelProto) -> Mapping[str, int]:
    """Height times width of each map, 1 for what is no map."""
    values = (*proto.graph.value_info, *proto.graph.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    return {name: math.prod(shape[2:]) for name, shape in shapes.items()}
