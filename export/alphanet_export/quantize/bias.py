"""Bias correction: what int8 adds to the mean of a layer's outputs, taken out of its bias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional as F

from alphanet_export.onnx_model import FloatArray
from alphanet_export.quantize.activations import activations
from alphanet_export.quantize.layers import Layer


def bias_shifts(
    proto: onnx.ModelProto, quantized: onnx.ModelProto, layers: Iterable[Layer], images: FloatArray
) -> dict[str, FloatArray]:
    """How far int8 shifts the mean of each output channel of each layer, ``(C_out,)`` by the layer's name.

    Each layer gets the inputs that it has in float32, so that its shift does not depend on which others are int8.

    Args:
        proto: The float32 graph.
        quantized: The same with quantise and dequantise nodes around every layer.
        layers: Of the graph.
        images: Normalised pixels ``(N, 3, S, S)``.

    Source: Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, section 4.2.
    """
    nodes = {node.name: node for node in proto.graph.node}
    weights, scales = _constants(proto), _Scales(quantized)
    chosen = {layer.name: nodes[layer.node] for layer in layers}
    totals: dict[str, Tensor] = {}
    for part in activations(proto, sorted({node.input[0] for node in chosen.values()}), images):
        for name, node in chosen.items():
            source, weight = node.input[0], node.input[1]
            x = torch.from_numpy(np.array(part[source]))
            x8 = torch.fake_quantize_per_tensor_affine(x, *scales.of_input(node.name), 0, 255)
            w = torch.from_numpy(weights[weight].copy())
            change = _apply(node, x8, scales.weight(node.name)) - _apply(node, x, w)
            totals[name] = totals.get(name, torch.zeros(())) + change.transpose(0, 1).flatten(1).mean(1) * len(x)
    return {name: (total / len(images)).numpy() for name, total in totals.items()}


def with_corrected_biases(
    proto: onnx.ModelProto, layers: Iterable[Layer], shifts: Mapping[str, FloatArray]
) -> onnx.ModelProto:
    """A copy of the float32 graph in which the layers named in ``shifts`` have them taken from their biases."""
    corrected = onnx.ModelProto()
    corrected.CopyFrom(proto)
    nodes = {node.name: node for node in corrected.graph.node}
    tensors = {tensor.name: tensor for tensor in corrected.graph.initializer}
    for layer in layers:
        if layer.name not in shifts:
            continue
        node, shift = nodes[layer.node], shifts[layer.name].astype(np.float32)
        if len(node.input) > 2:
            tensor = tensors[node.input[2]]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) - shift, tensor.name))
        else:
            node.input.append(f"{layer.name}.bias")
            corrected.graph.initializer.append(numpy_helper.from_array(-shift, f"{layer.name}.bias"))
    return corrected


class _Scales:
    """The scales in a graph with quantise and dequantise nodes."""

    def __init__(self, quantized: onnx.ModelProto) -> None:
        """Indexes the graph."""
        self._constants = _constants(quantized)
        self._nodes = {node.name: node for node in quantized.graph.node}
        self._producers = {name: node for node in quantized.graph.node for name in node.output}

    def of_input(self, node: str) -> tuple[float, int]:
        """Scale and zero point of a layer's input."""
        dequantize = self._producers[self._nodes[node].input[0]]
        return float(self._constants[dequantize.input[1]]), int(self._constants[dequantize.input[2]])

    def weight(self, node: str) -> Tensor:
        """The weights that int8 stands for, one scale an output channel."""
        dequantize = self._producers[self._nodes[node].input[1]]
        values = self._constants[dequantize.input[0]].astype(np.float32)
        scale = self._constants[dequantize.input[1]].reshape(-1, *(1,) * (values.ndim - 1))
        return torch.from_numpy(values * scale)


def _constants(proto: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """The stored tensors by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def _apply(node: onnx.NodeProto, x: Tensor, weight: Tensor) -> Tensor:
    """A layer without its bias."""
    if node.op_type == "Gemm":
        return F.linear(x, weight)
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    pads, strides = given.get("pads", [0, 0, 0, 0]), given.get("strides", [1, 1])
    return F.conv2d(x, weight, None, tuple(strides), tuple(pads[:2]), 1, given.get("group", 1))
