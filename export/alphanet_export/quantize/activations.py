"""Looking at what flows inside a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from alphanet_export.onnx_model import INPUT_NAME, FloatArray, open_session

_CHUNK = 8
"""Images at a time."""


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
    session = open_session(widened.SerializeToString(), "basic")
    for start in range(0, len(images), _CHUNK):
        part = np.ascontiguousarray(images[start : start + _CHUNK])
        values = dict(zip(inner, session.run(inner, {INPUT_NAME: part}), strict=True))
        yield {name: part if name == INPUT_NAME else values[name] for name in names}
