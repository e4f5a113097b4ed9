"""int8 for ONNX Runtime: quantise and dequantise nodes (QDQ), which it fuses into integer kernels."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from alphanet_export.onnx_model import FloatArray, open_session, run_logits
from alphanet_export.quantize.activations import activations
from alphanet_export.quantize.bias import bias_shifts, with_corrected_biases
from alphanet_export.quantize.layers import FOLLOWERS, LAYER_OPERATORS, Layer, find_layers, nodes_of
from alphanet_export.quantize.ranges import METHODS, find_range, histograms
from alphanet_export.quantize.toolchain import Toolchain
from alphanet_export.writers.to_onnx import lower_ir_version


class OnnxQdq(Toolchain):
    """Static QDQ with ``onnxruntime.quantization``: uint8 activations, int8 weights with a scale an output channel.

    Args:
        content: The float32 ONNX file, batch norms folded.
        images: To take ranges and biases from, ``(N, 3, S, S)``.
        reduce_range: As `Toolchain.reduced`; None asks this CPU, see `saturates`.
        correct_biases: Take the mean shift of each layer out of its bias.
    """

    methods = METHODS

    def __init__(
        self, content: bytes, images: FloatArray, *, reduce_range: bool | None = None, correct_biases: bool = True
    ) -> None:
        """Finds the layers and collects histograms."""
        self.title = f"ONNX Runtime {onnxruntime.__version__}, static QDQ"
        self.reduced = saturates() if reduce_range is None else reduce_range
        self._content, self._images, self._correct = content, images, correct_biases
        self._proto = onnx.load_model_from_string(content)
        self.layers: tuple[Layer, ...] = find_layers(self._proto)
        names = self._activations()
        self._histograms = histograms(lambda: activations(self._proto, names, images))
        self._shifts: dict[str, dict[str, FloatArray]] = {}
        self._ranges: dict[str, TensorsData] = {}

    def build(self, method: str, names: Collection[str]) -> bytes:
        """The content of the file whose layers called ``names`` are int8."""
        proto = self._proto
        if self._correct and names:
            if method not in self._shifts:
                everything = [layer.name for layer in self.layers]
                quantized = self._quantized(proto, method, everything)
                self._shifts[method] = bias_shifts(proto, quantized, self.layers, self._images)
            shifts = {name: shift for name, shift in self._shifts[method].items() if name in names}
            proto = with_corrected_biases(proto, self.layers, shifts)
        content: bytes = self._quantized(proto, method, names).SerializeToString(deterministic=True)
        return content

    def runner(self, model: bytes | None, threads: int = 0) -> Callable[[FloatArray], FloatArray]:
        """Runs the content of a file at full optimisation."""
        return functools.partial(run_logits, open_session(self._content if model is None else model, "all", threads))

    def write(self, model: bytes, path: Path, metadata: Mapping[str, str]) -> None:
        """Writes an ``.onnx`` file."""
        proto = onnx.load_model_from_string(model)
        lower_ir_version(proto)
        helper.set_model_props(proto, dict(metadata))
        onnx.checker.check_model(proto)
        path.write_bytes(proto.SerializeToString(deterministic=True))

    def _activations(self) -> list[str]:
        """Names of the values that can be int8."""
        stored = {tensor.name for tensor in self._proto.graph.initializer}
        chosen = set(nodes_of(self.layers, [layer.name for layer in self.layers]))
        nodes = [node for node in self._proto.graph.node if node.name in chosen]
        return sorted({name for node in nodes for name in (*node.input, *node.output)} - stored)

    def _quantized(self, proto: onnx.ModelProto, method: str, names: Collection[str]) -> onnx.ModelProto:
        """A graph with QDQ nodes around the layers called ``names``."""
        if method not in self._ranges:
            found = {name: find_range(histogram, method) for name, histogram in self._histograms.items()}
            pairs = {name: (np.float32(low), np.float32(high)) for name, (low, high) in found.items()}
            self._ranges[method] = TensorsData(CalibrationMethod.MinMax, pairs)
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        if not names:
            return copy
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=self.reduced,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges[method],
            nodes_to_quantize=nodes_of(self.layers, names),
            nodes_to_exclude=[],
            op_types_to_quantize=[*LAYER_OPERATORS, *FOLLOWERS],
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # It logs remarks on the root logger.
        try:
            quantizer.quantize_model()
        finally:
            logging.root.setLevel(level)
        quantizer.model.topological_sort()
        model: onnx.ModelProto = quantizer.model.model
        return model


@functools.cache
def saturates() -> bool:
    """Whether this CPU's kernel of uint8 times int8 saturates: without VNNI it adds two products in 16 bits.

    Found out by a convolution that has to give 200 and does not. Weights of 7 bits are then needed for right results.

    Source: ONNX Runtime's documentation, "Quantize ONNX models", on ``reduce_range``.
    """
    channels = 64
    constants: dict[str, Any] = {
        "x_scale": np.float32(1), "x_zero": np.uint8(0),
        "w": np.full((16, channels, 1, 1), 127, np.int8), "w_scale": np.ones(16, np.float32),
        "w_zero": np.zeros(16, np.int8), "y_scale": np.float32(255 * 127 * channels / 200), "y_zero": np.uint8(0),
    }  # fmt: skip
    conv = helper.make_node("QLinearConv", ["x", *constants], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.UINT8, [1, c, 8, 8]) for n, c in (("x", channels), ("y", 16)))
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([conv], "saturation", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = open_session(model.SerializeToString())
    given = session.run(None, {"x": np.full((1, channels, 8, 8), 255, np.uint8)})[0]
    return bool((np.abs(given.astype(int) - 200) > 1).any())
