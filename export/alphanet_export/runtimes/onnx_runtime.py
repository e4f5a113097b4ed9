"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os

from alphanet_export.onnx_model import open_session, run_logits
from alphanet_export.runtimes.interface import FloatArray, Runtime, only_ours


class OnnxRuntime(Runtime):
    """An ONNX file at full optimisation. Its threads wait actively during a run, and sleep between runs.

    Args:
        path: The ``.onnx`` file.
        threads: As `Runtime`.
        precision: As `Runtime`; what ONNX Runtime computes in is written in the file.

    Raises:
        AlphaNetError: It cannot be read.
    """

    name, title = "onnxruntime", "ONNX Runtime"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, precision: str = "fp32") -> None:
        """Loads the file."""
        super().__init__(str(path), threads, precision)
        self._engine = open_session(path, "all", self.threads, spin=True, sleep_between=True)
        shape = self._engine.get_inputs()[0].shape
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self.input_size = int(shape[2])
        self.metadata = only_ours(self._engine.get_modelmeta().custom_metadata_map)

    def _run(self, images: FloatArray) -> FloatArray:
        """Runs the session."""
        return run_logits(self._engine, images)
