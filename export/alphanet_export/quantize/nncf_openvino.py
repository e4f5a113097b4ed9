"""int8 for OpenVINO: NNCF's post-training quantisation, and layers taken back to float one by one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alphanet_export.onnx_model import FloatArray
from alphanet_export.packages import require_package
from alphanet_export.quantize.layers import Layer
from alphanet_export.quantize.onnx_qdq import saturates
from alphanet_export.quantize.toolchain import Toolchain
from alphanet_export.quiet import quiet

if TYPE_CHECKING:
    from alphanet_export.freeze import FrozenNet

_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
_KEPT = 0.9999
"""Share of the values that the method ``percentile`` spans."""


class NncfOpenVino(Toolchain):
    """``nncf.quantize`` on the OpenVINO model: uint8 activations, int8 weights with a scale an output channel.

    NNCF corrects biases itself. It has no entropy method.

    Args:
        frozen: What to quantise.
        layers: Of its float32 ONNX file, see `alphanet_export.quantize.layers.find_layers`.
        images: To take ranges and biases from, ``(N, 3, S, S)``.
        reduce_range: As `Toolchain.reduced`; None asks this CPU.

    Raises:
        MissingDependencyError: OpenVINO or NNCF is not installed.
    """

    methods = ("min-max", "percentile")

    def __init__(
        self, frozen: FrozenNet, layers: tuple[Layer, ...], images: FloatArray, *, reduce_range: bool | None = None
    ) -> None:
        """Converts the graph."""
        for package in ("openvino", "nncf"):
            require_package(package, "openvino")
        from alphanet_export.writers.to_openvino import openvino_model

        self.title = f"NNCF {version('nncf')} for OpenVINO {version('openvino')}"
        self.reduced = saturates() if reduce_range is None else reduce_range
        self.layers = layers
        self._images = images
        self._float = folded(openvino_model(frozen))
        self._owners = _owners(self._float, layers)
        self._whole: dict[str, Any] = {}

    def build(self, method: str, names: Collection[str]) -> Any:
        """The OpenVINO model whose layers called ``names`` are int8."""
        if method not in self._whole:
            self._whole[method] = self._quantized(method)
        model = self._whole[method].clone()
        _to_float(model, self._float, {node for node, layer in self._owners.items() if layer not in names})
        return model

    def runner(self, model: Any, threads: int = 0) -> Callable[[FloatArray], FloatArray]:
        """Compiles for the CPU, in float32 where it is not int8."""
        import openvino

        settings = {"NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        network = self._float if model is None else model
        request = openvino.compile_model(network, "CPU", settings).create_infer_request()
        batch = network.inputs[0].get_partial_shape()[0]
        step = batch.get_length() if batch.is_static else 8

        def run(images: FloatArray) -> FloatArray:
            parts = (np.ascontiguousarray(images[i : i + step]) for i in range(0, len(images), step))
            return np.concatenate([np.array(request.infer(part)[0], np.float32) for part in parts])

        return run

    def write(self, model: Any, path: Path, metadata: Mapping[str, str]) -> None:
        """Writes the ``.xml`` file and the ``.bin`` file beside it."""
        import openvino

        for key, text in metadata.items():
            model.set_rt_info(text, key.split(".", 1))
        openvino.save_model(model, path, compress_to_fp16=False)

    def _quantized(self, method: str) -> Any:
        """The model with every layer int8."""
        os.environ.setdefault("NNCF_CI", "1")  # Without it NNCF reports its use over the network.
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        nncf.set_log_level(logging.ERROR)
        images = [np.ascontiguousarray(image[None]) for image in self._images]
        weighted = [node.get_friendly_name() for node in self._float.get_ops() if node.get_type_name() in _WEIGHTED]
        advanced = AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE if self.reduced else OverflowFix.DISABLE,
            activations_range_estimator_params=(
                _percentile() if method == "percentile" else RangeEstimatorParametersSet.MINMAX
            ),
        )
        with quiet():
            return nncf.quantize(
                self._float.clone(),
                nncf.Dataset(images),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(images),
                fast_bias_correction=False,
                ignored_scope=nncf.IgnoredScope(names=[name for name in weighted if name not in self._owners]),
                advanced_parameters=advanced,
            )


def folded(model: Any) -> Any:
    """The model with what can be computed beforehand (shapes, reshaped weights) as constants."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
    return model


def _owners(model: Any, layers: tuple[Layer, ...]) -> dict[str, str]:
    """The layer that each node belongs to, by its name: its own, or the last one that it depends on.

    The n-th convolution of the program is ``Conv_n`` in ONNX and ``convolution_n/...`` here (``convolution/...`` the
    first); the matrix product is the classifier, the last layer. Squeeze-and-excite's convolutions belong to none.
    """
    numbers = {layer.node.removeprefix("Conv_"): index for index, layer in enumerate(layers)}
    latest: dict[str, int] = {}
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        sources = (port.get_source_output().get_node().get_friendly_name() for port in node.inputs())
        own = max((latest.get(source, -1) for source in sources), default=-1)
        if kind == "MatMul":
            own = len(layers) - 1
        elif kind in _WEIGHTED:
            number = name.partition("/")[0].removeprefix("convolution").removeprefix("_") or "0"
            if number not in numbers:
                continue
            own = numbers[number]
        if own >= 0:
            latest[name] = own
    return {name: layers[index].name for name, index in latest.items()}


def _percentile() -> Any:
    """NNCF's estimator of a range that leaves the outermost values out."""
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    low, high = (
        StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE,
            aggregator_type=AggregatorType.MEAN,
            quantile_outlier_prob=1 - _KEPT,
        )
        for _ in range(2)
    )
    return RangeEstimatorParameters(min=low, max=high)


def _to_float(model: Any, reference: Any, nodes: Collection[str]) -> None:
    """Gives the nodes called ``nodes`` of a quantised model their float inputs, weights and biases back."""
    originals = {node.get_friendly_name(): node for node in reference.get_ops()}
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if name not in nodes or name not in originals:
            continue
        for index, port in enumerate(node.inputs()):
            source = port.get_source_output()
            original = originals[name].input(index).get_source_output().get_node()
            if original.get_type_name() == "Constant":
                port.replace_source_output(_constant(original))
            elif source.get_node().get_type_name() == "FakeQuantize":
                port.replace_source_output(source.get_node().input(0).get_source_output())
    model.validate_nodes_and_infer_types()


def _constant(original: Any) -> Any:
    """The output of a copy of a constant."""
    from openvino import opset13

    return opset13.constant(original.data.copy()).output(0)
