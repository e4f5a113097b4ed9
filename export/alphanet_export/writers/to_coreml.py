"""Writes a frozen network for Core ML: an ``.mlpackage`` folder, which runs on Apple's systems only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphanet_export.freeze import FrozenNet
from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME
from alphanet_export.packages import require_package
from alphanet_export.quiet import quiet
from alphanet_zoo.errors import ParityError, UsageError

OPERATORS = {
    "conv2d": "conv",
    "linear": "linear",
    "silu": "silu",
    "relu": "relu",
    "hardsigmoid": "sigmoid_hard",
    "avg_pool2d": "avg_pool",
    "adaptive_avg_pool2d": "reduce_mean",
    "add": "add",
    "mul": "mul",
}
"""Core ML's operator for each PyTorch operator in the graphs."""

_DEBUG_FILE = "executorch_debug_handle_mapping.json"
"""A file that coremltools writes into the package for ExecuTorch only."""


def write_coreml(frozen: FrozenNet, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes an ``.mlpackage`` folder: an ML program in float32, for iOS 16 and macOS 13 or newer.

    The metadata is stored in ``user_defined_metadata``.

    Raises:
        MissingDependencyError: coremltools is not installed.
        UsageError: The batch size is dynamic, or the graph resizes its input, for which Core ML has no operator.
    """
    require_package("coremltools", "coreml")
    if frozen.dynamic_batch or frozen.resizes:
        raise UsageError(
            "a Core ML package takes one image of the arch's resolution; freeze without dynamic_batch and img_size"
        )
    size = frozen.preprocessing.input_size
    with quiet():
        import coremltools

        model = coremltools.convert(
            frozen.program.run_decompositions({}),
            convert_to="mlprogram",
            inputs=[coremltools.TensorType(name=INPUT_NAME, shape=(1, 3, size, size))],
            outputs=[coremltools.TensorType(name=OUTPUT_NAME)],
            compute_precision=coremltools.precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS16,
            skip_model_load=True,
        )
        model.user_defined_metadata.update(metadata or {})
        model.save(str(path))
    (path / _DEBUG_FILE).unlink(missing_ok=True)


def check_coreml(path: Path, frozen: FrozenNet) -> None:
    """Compares the structure of an ``.mlpackage`` with the graph that it was converted from, without running it.

    Raises:
        ParityError: Inputs, outputs or the number of an operator differ, or weights are missing.
    """
    require_package("coremltools", "coreml")
    with quiet():
        import coremltools

        spec = coremltools.utils.load_spec(str(path))
    size, classes = frozen.preprocessing.input_size, frozen.net.num_classes
    expected: dict[str, Any] = {INPUT_NAME: [1, 3, size, size], OUTPUT_NAME: [1, classes]}
    expected.update(_expected_operators(frozen))
    values = (*spec.description.input, *spec.description.output)
    actual: dict[str, Any] = {value.name: list(value.type.multiArrayType.shape) for value in values}
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    actual.update(Counter(operation.type for operation in block.operations if operation.type in OPERATORS.values()))
    wrong = [f"{key} {actual.get(key)}, not {value}" for key, value in expected.items() if actual.get(key) != value]
    weights = (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").stat().st_size
    needed = 4 * sum(value.numel() for value in frozen.program.state_dict.values() if value.numel() > 1000)
    if weights < needed:
        wrong.append(f"{weights} bytes of weights, not at least {needed}")
    if wrong:
        raise ParityError(f"the Core ML package differs from the network's graph: {'; '.join(wrong)}; "
                          "report this with the versions of coremltools and alphanet-zoo")  # fmt: skip


def _expected_operators(frozen: FrozenNet) -> Counter[str]:
    """The expected number of each of Core ML's operators."""
    calls = (node.target for node in frozen.program.graph.nodes if node.op == "call_function")
    names = Counter(str(target).split(".")[1].rstrip("_") for target in calls)
    return Counter({OPERATORS[name]: count for name, count in names.items() if name in OPERATORS})
