"""Running a graph that is held in memory, and looking at what flows inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

from alphanet_export.onnx_model import INPUT_NAME, LEVELS, FloatArray
from alphanet_zoo.errors import AlphaNetError

_CHUNK = 8
"""Images at a time."""


def session_of(content: bytes, level: str = "all", threads: int = 0) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the content of a file.

    Args:
        content: Of an ONNX file.
        level: A key of `alphanet_export.onnx_model.LEVELS`.
        threads: Threads within an operator; 0 leaves the choice to ONNX Runtime.

    Raises:
        AlphaNetError: It cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # Its errors derive from Exception directly, a class for each code.
        raise AlphaNetError(f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {error}") from error


def activations(proto: onnx.ModelProto, names: Sequence[str], images: FloatArray) -> Iterator[Mapping[str, FloatArray]]:
    """The float32 values called ``names``, for a few of the images ``(N, 3, S, S)`` at a time.

    Args:
        proto: A float32 graph; it is run for any number of images, even where it is written for one.
        names: Its input, outputs, or values between nodes.
        images: Normalised pixels.
    """
    inner = [name for name in names if name != INPUT_NAME]
    widened = onnx.ModelProto()
    widened.CopyFrom(proto)
    del widened.graph.value_info[:], widened.graph.output[:]
    widened.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    widened.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in inner)
    session = session_of(widened.SerializeToString(), "basic")
    for start in range(0, len(images), _CHUNK):
        part = np.ascontiguousarray(images[start : start + _CHUNK])
        values = dict(zip(inner, session.run(inner, {INPUT_NAME: part}), strict=True))
        yield {name: part if name == INPUT_NAME else values[name] for name in names}
