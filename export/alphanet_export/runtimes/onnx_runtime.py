"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os

from alphanet_export.onnx_model import IMAGE_NAME, open_session, run_logits
from alphanet_export.runtimes.runtime import FloatArray, ImageArray, Runtime, alphanet_entries
from alphanet_zoo.errors import AlphaNetError


class OnnxRuntime(Runtime):
    """An ONNX or ``.ort`` file at full optimisation. Idle threads spin during a run.

    Args:
        path: The file.
        threads: See `Runtime`.
        precision: See `Runtime`; the file itself defines the arithmetic.
        sleep_between: Let the threads sleep between runs, so that other sessions get the cores. Without it they spin
            on, which is faster for a session that runs alone.

    Raises:
        AlphaNetError: The file cannot be read.
    """

    name, title = "onnxruntime", "ONNX Runtime"

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        precision: str = "fp32",
        *,
        sleep_between: bool = True,
    ) -> None:
        """Loads the file."""
        super().__init__(str(path), threads, precision)
        self._engine = open_session(path, "all", self.threads, spin=True, sleep_between=sleep_between)
        inputs = self._engine.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        self.embedded = bool(shape) and inputs[0].name == IMAGE_NAME
        if len(shape) != 4 or inputs[0].type != ("tensor(uint8)" if self.embedded else "tensor(float)"):
            found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise AlphaNetError(f"{path} takes {found}; pass a classifier with one input (N, 3, S, S), float32")
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self.input_size = shape[2] if isinstance(shape[2], int) and not self.embedded else None
        self.metadata = alphanet_entries(self._engine.get_modelmeta().custom_metadata_map)

    def _run(self, images: ImageArray) -> FloatArray:
        """Runs the session."""
        return run_logits(self._engine, images)
