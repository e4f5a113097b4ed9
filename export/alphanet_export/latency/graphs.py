"""ONNX graphs of the parts of a network and of whole networks, with the operators of an exported file.

The weights are constants of no meaning, stored as their shape: latency does not depend on them, and files stay small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME
from alphanet_export.writers.to_onnx import lower_ir_version
from alphanet_zoo.search.device import Part

OPSET = 18


def input_shape(part: Part) -> tuple[int, int, int, int]:
    """Shape of the input of a part, for one image."""
    channels = 3 if part.kind == "stem" else part.sizes[0]
    return (1, channels, part.sizes[-1], part.sizes[-1])


def graph_bytes(parts: Sequence[Part]) -> bytes:
    """The content of an ONNX file that runs parts one after the other, for one image.

    Args:
        parts: One part, or all parts of a network in order.
    """
    graph = _Graph()
    value = INPUT_NAME
    for part in parts:
        value = {"stem": graph.stem, "block": graph.block, "head": graph.head}[part.kind](value, part.sizes)
    graph.nodes[-1].output[0] = OUTPUT_NAME
    given = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, input_shape(parts[0]))
    result = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, None)
    made = helper.make_graph(graph.nodes, "alphanet-part", [given], [result], graph.initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="alphanet-export")
    lower_ir_version(model)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _Graph:
    """The nodes and constants of a graph that is being built; each method adds a layer and returns its output."""

    def __init__(self) -> None:
        """Empty."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def stem(self, x: str, sizes: Sequence[int]) -> str:
        """Convolution and swish."""
        width, stride, _ = sizes
        return self._swish(self._conv(x, 3, width, 3, stride))

    def block(self, x: str, sizes: Sequence[int]) -> str:
        """An MBConv block."""
        inside, mid, out, squeezed, kernel, stride, expand, _ = sizes
        y = self._swish(self._conv(x, inside, mid)) if expand else x
        y = self._swish(self._conv(y, mid, mid, kernel, stride, groups=mid))
        if squeezed:
            gate = self._add("Relu", [self._conv(self._add("GlobalAveragePool", [y]), mid, squeezed)])
            gate = self._add("HardSigmoid", [self._conv(gate, squeezed, mid)], alpha=1 / 6, beta=0.5)
            y = self._add("Mul", [y, gate])
        y = self._conv(y, mid, out)
        if stride == 2:
            odd = sizes[-1] % 2
            x = self._add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2], count_include_pad=1,
                          pads=[odd, odd, 0, 0])  # fmt: skip
        if inside != out:
            x = self._conv(x, inside, out, bias=False)
        return self._add("Add", [y, x])

    def head(self, x: str, sizes: Sequence[int]) -> str:
        """The convolution before pooling, pooling, the last convolution, and the classifier as a convolution."""
        last, features, width, classes, _ = sizes
        y = self._add("GlobalAveragePool", [self._swish(self._conv(x, last, features))])
        y = self._swish(self._conv(y, features, width, bias=False))
        return self._add("Flatten", [self._conv(y, width, classes)], axis=1)

    def _swish(self, x: str) -> str:
        """The product of x and its sigmoid."""
        return self._add("Mul", [x, self._add("Sigmoid", [x])])

    def _conv(
        self, x: str, inside: int, out: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, bias: bool = True
    ) -> str:
        """A convolution that keeps the size, divided by the stride."""
        shape = (out, inside // groups, kernel, kernel)
        inputs = [x, self._constant(shape, 1.0 / (shape[1] * kernel**2))]
        inputs += [self._constant((out,), 0.01)] if bias else []
        return self._add("Conv", inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, group=groups,
                         pads=[kernel // 2] * 4)  # fmt: skip

    def _constant(self, shape: tuple[int, ...], value: float) -> str:
        """A constant tensor, which runtimes compute once when they load the file."""
        name = f"shape_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        filled = numpy_helper.from_array(np.array([value], np.float32))
        return self._add("ConstantOfShape", [name], value=filled)

    def _add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name
