"""From a frozen net to ONNX: one file that is clean, checked, and the same every time."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
import torch

from alphanet_export.freeze import FrozenNet
from alphanet_export.quiet import quiet
from alphanet_export.writers.onnx_passes import name_batch, suit_cpu
from alphanet_zoo.errors import UsageError

INPUT, OUTPUT = "pixel_values", "logits"
OPSETS = range(18, 25)
"""Versions of the standard operators that a file can be written in."""


def onnx_bytes(frozen: FrozenNet, metadata: Mapping[str, str] | None = None, *, opset: int = 18) -> bytes:
    """The content of an ONNX file: weights inside, nothing in it about the machine that made it.

    Args:
        frozen: What `freeze` made.
        metadata: Entries of ``metadata_props``, see `alphanet_export.metadata.describe`.
        opset: Version of the standard operators, one of `OPSETS`.

    Raises:
        UsageError: The opset is none of them.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not supported; give {OPSETS[0]} to {OPSETS[-1]}")
    with quiet():
        program = torch.onnx.export(
            frozen.program, dynamo=True, opset_version=opset, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
    assert program is not None
    model = program.model
    suit_cpu(model)
    name_batch(model)
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    onnx.helper.set_model_props(proto, dict(metadata or {}))
    onnx.checker.check_model(proto)
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
