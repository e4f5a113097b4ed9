"""int8 for OpenVINO: NNCF's post-training quantisation with accuracy control."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alphanet_export.onnx_model import FloatArray
from alphanet_export.packages import require_package
from alphanet_export.quantize.images import QuantImages
from alphanet_export.quantize.judge import LEAST_INT8, accuracy_lost, judge
from alphanet_export.quantize.log import QuantizationLog, measure_speed
from alphanet_export.quantize.onnx_qdq import FLOAT_PART, saturates
from alphanet_export.quiet import quiet
from alphanet_export.runtimes.open_vino import compiled_for_cpu, kept_signal_stack

if TYPE_CHECKING:
    from alphanet_export.freeze import FrozenNet

_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")


def quantize_openvino(
    frozen: FrozenNet,
    images: QuantImages,
    *,
    max_drop: float = 0.5,
    reduce_range: bool | None = None,
    time_it: bool = True,
) -> tuple[Any, QuantizationLog]:
    """Quantises with ``nncf.quantize_with_accuracy_control``: uint8 activations, int8 weights, one scale per channel.

    NNCF corrects biases, and returns layers to float32 until the drop on the held-out images is at most ``max_drop``.

    Args:
        frozen: The network.
        images: Calibration and held-out images. Without labels, classes that differ from float32's count as wrong.
        max_drop: Points of top-1 that may be lost on the held-out images.
        reduce_range: Use 7 of the 8 bits of a weight. None: if this CPU needs it.
        time_it: Also time the result against float32.

    Returns:
        The ``openvino.Model``, and the log.

    Raises:
        MissingDependencyError: OpenVINO or NNCF is not installed.
        AccuracyError: NNCF cannot keep the accuracy with at least half of the multiply-accumulates in int8.
    """
    for package in ("openvino", "nncf"):
        require_package(package, "openvino")
    from alphanet_export.writers.to_openvino import openvino_model

    reduced = saturates() if reduce_range is None else reduce_range
    plain = _folded(openvino_model(frozen))
    expected = openvino_runner(plain)(images.held_out)
    classes = expected.argmax(axis=1) if images.classes is None else images.classes
    model = _accuracy_control(plain.clone(), images, classes, max_drop, reduced)
    verdict = judge(expected, openvino_runner(model)(images.held_out), images.classes, max_drop)
    layers = openvino_layers(model, frozen)
    share = sum(macs for macs, integer in layers.values() if integer) / sum(macs for macs, _ in layers.values())
    if not verdict.within or share < LEAST_INT8:
        raise accuracy_lost(verdict)
    timed = (
        measure_speed(openvino_runner(model, 1), openvino_runner(plain, 1), images.held_out[:1]) if time_it else None
    )
    return model, QuantizationLog(
        toolchain=f"NNCF {version('nncf')}, accuracy control, for OpenVINO {version('openvino')}",
        reduced_range=reduced,
        calibration_images=len(images.calibration),
        held_out_images=len(images.held_out),
        why_unlabelled=images.why_unlabelled,
        verdict=verdict,
        float_layers=tuple(name for name, (_, integer) in layers.items() if not integer),
        int8_share=share,
        speed=timed,
    )


def write_openvino_int8(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the ``.xml`` file and the ``.bin`` file beside it."""
    import openvino

    for key, text in metadata.items():
        model.set_rt_info(text, key.split(".", 1))
    openvino.save_model(model, path, compress_to_fp16=False)


def openvino_runner(model: Any, threads: int = 0) -> Callable[[FloatArray], FloatArray]:
    """Computes logits ``(N, classes)`` of images ``(N, 3, S, S)`` on the CPU, in float32 what is not int8.

    Args:
        model: An ``openvino.Model``.
        threads: Number of threads; 0 leaves the choice to OpenVINO.
    """
    settings = {"NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = compiled_for_cpu(model, settings).create_infer_request()
    batch = model.inputs[0].get_partial_shape()[0]
    step = batch.get_length() if batch.is_static else 8

    def run(images: FloatArray) -> FloatArray:
        parts = (np.ascontiguousarray(images[i : i + step]) for i in range(0, len(images), step))
        return np.concatenate([np.array(request.infer(part)[0], np.float32) for part in parts])

    return run


def openvino_layers(model: Any, frozen: FrozenNet) -> dict[str, tuple[int, bool]]:
    """(Multiply-accumulates for one image, whether int8) of each layer outside squeeze-and-excite, by its name."""
    parameters = frozen.program.graph_signature.inputs_to_parameters
    arguments = [node.args[1] for node in frozen.program.graph.nodes if len(node.args) > 1]
    weights = [parameters[name] for name in (getattr(each, "name", None) for each in arguments) if name in parameters]
    found: dict[str, tuple[int, bool]] = {}
    nodes = sorted((op for op in model.get_ops() if op.get_type_name() in _WEIGHTED), key=_position)
    for node, weight in zip(nodes, weights, strict=True):
        constant = node.input_value(1).get_node()
        values = math.prod(constant.get_output_shape(0))
        while constant.get_type_name() in ("Reshape", "Multiply", "Subtract", "Convert"):
            constant = constant.input_value(0).get_node()
        shape = node.get_output_partial_shape(0)
        positions = math.prod(shape[axis].get_length() for axis in range(2, len(shape)))
        name = weight.removesuffix(".weight")
        if FLOAT_PART not in name:
            found[name] = (values * positions, constant.get_element_type().get_type_name() in ("i8", "u8"))
    return found


def _position(node: Any) -> float:
    """Where a layer stands among those of the program: ``convolution_3/...`` is the fourth; the classifier is last."""
    name = node.get_friendly_name().partition("/")[0]
    if node.get_type_name() == "MatMul":
        return math.inf
    number = name.rpartition("_")[2]
    return float(number) if number.isdigit() else 0.0


def _folded(model: Any) -> Any:
    """The model with constants folded: NNCF leaves layers in float whose weights are reshaped, the depthwise ones."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
    return model


def _accuracy_control(
    model: Any, images: QuantImages, classes: npt.NDArray[np.int64], max_drop: float, reduced: bool
) -> Any:
    """NNCF's int8 model; ``classes`` are those of the held-out images."""
    os.environ.setdefault("NNCF_CI", "1")  # Otherwise NNCF reports its use over the network.
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    def top1(compiled: Any, items: Iterable[tuple[FloatArray, int]]) -> tuple[float, list[float]]:
        right = [float(compiled(image)[0].argmax() == index) for image, index in items]
        return float(np.mean(right)), right

    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level also changes handlers that others added.
    held_out = zip(images.held_out, classes, strict=True)
    pairs = [(np.ascontiguousarray(image[None]), int(index)) for image, index in held_out]
    with quiet(), kept_signal_stack():
        return nncf.quantize_with_accuracy_control(
            model,
            nncf.Dataset([np.ascontiguousarray(image[None]) for image in images.calibration]),
            nncf.Dataset(pairs, lambda pair: pair[0]),
            top1,
            max_drop=max_drop / 100 + 1e-9,  # So that a drop of max_drop is allowed in spite of rounding.
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images.calibration),
            fast_bias_correction=False,
            advanced_quantization_parameters=AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.ENABLE if reduced else OverflowFix.DISABLE,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,  # NNCF's default clips.
            ),
        )
