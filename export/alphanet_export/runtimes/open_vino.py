"""OpenVINO on the CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alphanet_export.onnx_model import IMAGE_NAME, PROBABILITIES_NAME, log_probabilities
from alphanet_export.packages import require_package
from alphanet_export.runtimes.runtime import PREFIX, FloatArray, ImageArray, Runtime
from alphanet_zoo.errors import AlphaNetError, UsageError

_ELEMENTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""OpenVINO's names for the precisions."""


class OpenVino(Runtime):
    """An OpenVINO model, tuned for latency.

    Args:
        path: The ``.xml`` file; its weights are in the ``.bin`` file beside it.
        threads: See `Runtime`.
        precision: See `Runtime`. bf16 and fp16 require a CPU that computes in them.

    Raises:
        UsageError: This CPU does not support the precision.
        MissingDependencyError: OpenVINO is not installed.
        AlphaNetError: The file cannot be read.
    """

    name, title = "openvino", "OpenVINO"
    precisions = ("fp32", "bf16", "fp16")

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, precision: str = "fp32") -> None:
        """Loads and compiles the file."""
        super().__init__(str(path), threads, precision)
        require_package("openvino", "openvino")
        import openvino

        weights = Path(path).with_suffix(".bin")
        if Path(path).is_file() and not weights.is_file():
            raise AlphaNetError(f"{weights} is missing; copy it beside {Path(path).name}, or export the model again")
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _ELEMENTS[precision],
        }
        try:
            model = openvino.Core().read_model(os.fspath(path))
            compiled = compiled_for_cpu(model, settings)
            shape = model.inputs[0].get_partial_shape()
            self.embedded = model.inputs[0].any_name == IMAGE_NAME
            self.input_size = shape[2].get_length() if shape[2].is_static and not self.embedded else None
            self._takes_logarithm = model.outputs[0].any_name == PROBABILITIES_NAME
        except Exception as error:  # All its errors are RuntimeErrors.
            raise AlphaNetError(
                f"OpenVINO {openvino.__version__} cannot load {path}: {error}; export it again"
            ) from error
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != _ELEMENTS[precision]:
            raise UsageError(f"this CPU does not compute in {precision}: OpenVINO would use {used}; pass fp32")
        self.batch = shape[0].get_length() if shape[0].is_static else None
        self.metadata = _rt_info(model)
        self._engine = compiled.create_infer_request()

    def _run(self, images: ImageArray) -> FloatArray:
        """Runs the request and copies its output, which is in the request's memory."""
        outputs = np.array(self._engine.infer(images)[0], dtype=np.float32)
        return log_probabilities(outputs) if self._takes_logarithm else outputs


def compiled_for_cpu(model: Any, settings: Mapping[str, Any]) -> Any:
    """``openvino.compile_model`` for the CPU, see `kept_signal_stack`."""
    import openvino

    with kept_signal_stack():
        return openvino.compile_model(model, "CPU", dict(settings))


class _SignalStack(ctypes.Structure):
    """``stack_t`` of sigaltstack(2)."""

    _fields_ = [("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restores the alternate signal stack of this thread after the block. Every use of the CPU plugin requires it.

    The CPU plugin of OpenVINO (2026.4) replaces it, and restores the previous one when it is destroyed. If two plugins
    are not destroyed in the reverse order of their creation, a freed stack remains, and the next signal with a Python
    handler (Ctrl-C, or the end of a child process) ends the process with a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        if signal_stack().base != before.base:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)


def signal_stack() -> _SignalStack:
    """The alternate signal stack of this thread, on Linux."""
    stack = _SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


def _rt_info(model: object) -> dict[str, str]:
    """The entries under ``alphanet`` in a model's ``rt_info``."""
    section = PREFIX.rstrip(".")
    if not model.has_rt_info([section]):  # type: ignore[attr-defined]
        return {}
    entries = model.get_rt_info([section]).astype(dict)  # type: ignore[attr-defined]
    return {PREFIX + key: value.astype(str) for key, value in entries.items()}
