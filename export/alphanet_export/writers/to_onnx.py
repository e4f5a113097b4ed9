"""Writes a frozen network as ONNX: one self-contained, checked and reproducible file."""

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


def lower_ir_version(proto: onnx.ModelProto) -> None:
    """Lowers the IR version of ``proto`` to that which its opset was released with, such as 8 for opset 18.

    Runtimes refuse files with a later IR version than their own, even if they have every operator.

    Source: `onnx.helper.VERSION_TABLE`.
    """
    needed = onnx.helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
    proto.ir_version = min(proto.ir_version, needed)


def onnx_bytes(frozen: FrozenNet, metadata: Mapping[str, str] | None = None, *, opset: int = 18) -> bytes:
    """The content of an ONNX file, with its weights and without information about the machine that wrote it.

    Args:
        frozen: What `alphanet_export.freeze.freeze` returned.
        metadata: Entries of ``metadata_props``, see `alphanet_export.metadata.describe`.
        opset: Version of the standard operators, one of `OPSETS`.

    Raises:
        UsageError: The opset is not one of them.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not supported; pass {OPSETS[0]} to {OPSETS[-1]}")
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
    lower_ir_version(proto)
    onnx.helper.set_model_props(proto, dict(metadata or {}))
    onnx.checker.check_model(proto)
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
