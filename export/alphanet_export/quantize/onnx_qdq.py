"""int8 for ONNX Runtime: quantise and dequantise nodes (QDQ), which it fuses into integer kernels."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.calibrate import MinMaxCalibrater, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from alphanet_export.onnx_model import INPUT_NAME, FloatArray, open_session, run_logits
from alphanet_export.quantize.images import QuantImages, spread
from alphanet_export.quantize.judge import LEAST_INT8, Judgement, accuracy_lost, judge
from alphanet_export.quantize.log import QuantizationLog, measure_speed
from alphanet_export.quiet import quiet
from alphanet_export.verify.measure.parity import sqnr_db
from alphanet_export.writers.to_onnx import lower_ir_version

LAYER_OPERATORS = ("Conv", "Gemm")
FOLLOWERS = ("Sigmoid", "Mul", "Add", "AveragePool", "GlobalAveragePool")
"""Operators that are int8 if the layer before them is: ONNX Runtime has integer kernels for these."""
FLOAT_PART = ".se."
"""Part of the name of every layer that stays in float: squeeze-and-excite, which is tiny and computes a gate."""
PROBE_IMAGES = 64
"""Held-out images on which the layers are compared."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights, and the nodes that follow it up to the next one.

    Args:
        name: Name of its weights in the network, such as ``blocks.3.0.conv_pw``.
        node: Name of its node in the graph.
        followers: Names of the nodes without weights after it: SiLU, the block's addition, pools, products.
        macs: Multiply-accumulates for one image.
    """

    name: str
    node: str
    followers: tuple[str, ...]
    macs: int


def quantize_onnx(
    content: bytes,
    images: QuantImages,
    *,
    max_drop: float = 0.5,
    reduce_range: bool | None = None,
    time_it: bool = True,
) -> tuple[bytes, QuantizationLog]:
    """Quantises every layer, then returns layers to float32 until the accuracy is kept.

    Activations are uint8 with one scale per tensor, from the smallest to the largest value on the calibration images.
    Weights are int8 with one scale per output channel. If all layers in int8 lose too much, the layers are ranked by
    the noise in the logits when each alone is int8, and return to float32 one by one, the noisiest first.

    Args:
        content: The float32 ONNX file, batch norms folded.
        images: Calibration and held-out images.
        max_drop: Points of top-1 that may be lost on the held-out images.
        reduce_range: Use 7 of the 8 bits of a weight. None: if this CPU needs it, see `saturates`.
        time_it: Also time the result against float32.

    Returns:
        The content of the int8 file, and the log.

    Raises:
        AccuracyError: More than ``max_drop`` points are lost with half of the multiply-accumulates in float32.
    """
    network = _Network(content, images.calibration, saturates() if reduce_range is None else reduce_range)
    expected = _runner(content)(images.held_out)
    sensitivity: dict[str, float] = {}
    verdicts: list[Judgement] = []
    while True:
        in_float = sorted(sensitivity, key=lambda name: sensitivity[name])[: len(verdicts)]
        in_int8 = [layer.name for layer in network.layers if layer.name not in in_float]
        share = share_of_macs(network.layers, in_int8)
        if share < LEAST_INT8:
            raise accuracy_lost(min(verdicts, key=lambda verdict: verdict.drop))
        model = network.quantized(in_int8)
        verdicts.append(judge(expected, _runner(model)(images.held_out), images.classes, max_drop))
        if verdicts[-1].within:
            break
        sensitivity = sensitivity or network.sensitivity_db(spread(images.held_out, PROBE_IMAGES))
    timed = measure_speed(_runner(model, 1), _runner(content, 1), images.held_out[:1]) if time_it else None
    return model, QuantizationLog(
        toolchain=f"ONNX Runtime {onnxruntime.__version__}, static QDQ",
        reduced_range=network.reduced,
        calibration_images=len(images.calibration),
        held_out_images=len(images.held_out),
        why_unlabelled=images.why_unlabelled,
        verdict=verdicts[-1],
        float_layers=tuple(in_float),
        int8_share=share,
        speed=timed,
        drops=tuple(verdict.drop for verdict in verdicts),
        sensitivity_db=sensitivity,
    )


def with_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """The content of an int8 file, with its metadata."""
    proto = onnx.load_model_from_string(model)
    lower_ir_version(proto)
    helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def find_layers(proto: onnx.ModelProto) -> tuple[Layer, ...]:
    """The layers of a file of `alphanet_export.writers.to_onnx.onnx_bytes`, in the order in which they run.

    A node without weights belongs to the last layer that it depends on. Squeeze-and-excite's layers are left out.
    """
    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    values = (*proto.graph.value_info, *proto.graph.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    owner: dict[str, int] = {}
    found: list[tuple[str, str, int]] = []
    followers: list[list[str]] = []
    for node in proto.graph.node:
        latest = max((owner[name] for name in node.input if name in owner), default=-1)
        if node.op_type in LAYER_OPERATORS:
            name = node.input[1].partition(".weight")[0]
            if FLOAT_PART not in name:
                latest = len(found)
                positions = math.prod(shapes[node.output[0]][2:])
                found.append((name, node.name, math.prod(initializers[node.input[1]].dims) * positions))
                followers.append([])
        elif node.op_type in FOLLOWERS and latest >= 0:
            followers[latest].append(node.name)
        owner.update((name, latest) for name in node.output)
    return tuple(
        Layer(name, node, tuple(after), macs) for (name, node, macs), after in zip(found, followers, strict=True)
    )


def nodes_of(layers: Collection[Layer], names: Collection[str]) -> list[str]:
    """The nodes that are int8 if the layers called ``names`` are."""
    return [node for layer in layers if layer.name in names for node in (layer.node, *layer.followers)]


def share_of_macs(layers: Collection[Layer], names: Collection[str]) -> float:
    """The share, 0 to 1, of the layers' multiply-accumulates that those called ``names`` do."""
    return sum(layer.macs for layer in layers if layer.name in names) / sum(layer.macs for layer in layers)


class _Network:
    """A float32 file, and its int8 files.

    Args:
        content: The file.
        images: Calibration images ``(N, 3, S, S)``.
        reduced: Whether weights use 7 of the 8 bits.
    """

    def __init__(self, content: bytes, images: FloatArray, reduced: bool) -> None:
        """Finds the layers and the range of each activation."""
        self.reduced = reduced
        self._content, self._proto = content, onnx.load_model_from_string(content)
        self.layers = find_layers(self._proto)
        self._ranges = _ranges(content, images)

    def quantized(self, names: Collection[str]) -> bytes:
        """The content of the file whose layers called ``names``, at least one, are int8."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self._proto)
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=self.reduced,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=nodes_of(self.layers, names),
            nodes_to_exclude=[],
            op_types_to_quantize=[*LAYER_OPERATORS, *FOLLOWERS],
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        with quiet():  # It logs remarks on the root logger.
            quantizer.quantize_model()
        quantizer.model.topological_sort()
        content: bytes = quantizer.model.model.SerializeToString(deterministic=True)
        return content

    def sensitivity_db(self, images: FloatArray) -> dict[str, float]:
        """Signal-to-noise ratio of the logits in decibels with one layer alone in int8, by layer."""
        expected = _runner(self._content)(images)
        alone = {layer.name: self.quantized([layer.name]) for layer in self.layers}
        return {name: sqnr_db(expected, _runner(content)(images)) for name, content in alone.items()}


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Images ``(N, 3, S, S)``, read one by one."""

    def __init__(self, images: FloatArray) -> None:
        """Starts at the first image."""
        self._items: Iterator[FloatArray] = iter(images)

    def get_next(self) -> dict[str, FloatArray] | None:
        """The next input of the model; None after the last."""
        image = next(self._items, None)
        return None if image is None else {INPUT_NAME: image[None]}


def _ranges(content: bytes, images: FloatArray) -> TensorsData:
    """The smallest and the largest value of each activation on the images ``(N, 3, S, S)``."""
    with tempfile.TemporaryDirectory(prefix="alphanet-ranges-") as name:
        plain = Path(name) / "float.onnx"
        plain.write_bytes(content)
        calibrater = MinMaxCalibrater(plain, [*LAYER_OPERATORS, *FOLLOWERS], str(Path(name) / "augmented.onnx"))
        calibrater.augment_graph()
        calibrater.execution_providers = ["CPUExecutionProvider"]
        calibrater.create_inference_session()
        calibrater.collect_data(_Images(images))
        return calibrater.compute_data()


def _runner(content: bytes, threads: int = 0) -> Callable[[FloatArray], FloatArray]:
    """Computes logits ``(N, classes)`` of images ``(N, 3, S, S)``; with 0 threads ONNX Runtime chooses."""
    return functools.partial(run_logits, open_session(content, "all", threads))


@functools.cache
def saturates() -> bool:
    """Whether this CPU's kernel of uint8 times int8 saturates: without VNNI it adds two products in 16 bits.

    It runs a convolution whose result is 200 unless it saturates. On such a CPU weights need 7 bits.

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
