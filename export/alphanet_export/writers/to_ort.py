"""Converts an ONNX file to ONNX Runtime's own format, which its minimal builds for phones and small devices require."""

from __future__ import annotations

import tempfile
from pathlib import Path

from alphanet_export.quiet import quiet


def write_ort(content: bytes, path: Path) -> None:
    """Writes ``path``, an ``.ort`` file, with the metadata of the ONNX file.

    The graph is optimised for any CPU: layouts that only x86-64 has are not used. So the file runs on ARM too, and on
    x86-64 the ONNX file is faster.

    Args:
        content: The ONNX file, float32 or int8.
        path: The file to write.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    with tempfile.TemporaryDirectory(prefix="alphanet-ort-") as name:
        source = Path(name) / "model.onnx"
        source.write_bytes(content)
        with quiet():
            convert_onnx_models_to_ort(source, optimization_styles=[OptimizationStyle.Fixed], target_platform="arm")
        path.write_bytes(source.with_suffix(".ort").read_bytes())
