"""What an ONNX file may contain. The whole model is walked: graphs, nodes, attributes, functions, tensors.

The list is of what is accepted, not of known attacks: a model without functions and training information, whose nodes
are standard operators or ONNX Runtime's own, and whose tensors lie in the file itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]

from alphanet_zoo.errors import AlphaNetError

DOMAINS = frozenset(("", "ai.onnx", "com.microsoft", "com.microsoft.nchwc"))
"""Domains of accepted operators: ONNX, and the operators that are built into ONNX Runtime."""
MOST_ELEMENTS = 2**31
"""Largest number of elements of a tensor."""

_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32, onnx.TensorProto.UINT8: 8, onnx.TensorProto.INT8: 8, onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT16: 16, onnx.TensorProto.INT32: 32, onnx.TensorProto.INT64: 64, onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.FLOAT16: 16, onnx.TensorProto.DOUBLE: 64, onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.UINT64: 64, onnx.TensorProto.BFLOAT16: 16,
}  # fmt: skip
"""Bits per element of the types whose raw data is checked."""


def check_model(path: str | os.PathLike[str], proto: onnx.ModelProto) -> None:
    """Checks that a model contains nothing but what is accepted.

    Raises:
        AlphaNetError: It does; the message names what and where.
    """
    for message in _messages(proto):
        problem = _problem(message)
        if problem is not None:
            raise AlphaNetError(f"{os.fspath(path)} {problem}; {_remedy(path, proto)}")


def _remedy(path: str | os.PathLike[str], proto: onnx.ModelProto) -> str:
    """What to do about a model that is not accepted."""
    if any(str(entry.key).startswith("alphanet.") for entry in proto.metadata_props):  # bytes if it is not UTF-8
        return "export it again, as one file, with alphanet export"
    if any(_is_external(message) for message in _messages(proto) if isinstance(message, onnx.TensorProto)):
        one = f'onnx.save(onnx.load({os.fspath(path)!r}), "one.onnx")'
        return f"if that file is yours, write both as one file in Python: import onnx; {one}"
    return "export it again with standard operators, as one file"


def _problem(message: Any) -> str | None:
    """Why one message of a model is not accepted; None if it is."""
    if len(UnknownFieldSet(message)):
        return f"has fields in a {type(message).__name__} that this version of onnx does not have"
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING and not all(
            isinstance(text, str) for text in ([value] if isinstance(value, str | bytes) else value)
        ):
            return f"has a {field.name} that is not UTF-8 text"
    match message:
        case onnx.ModelProto():
            held = [name for name in ("functions", "training_info") if len(getattr(message, name, ()))]
            return f"contains {held[0]}, which are not accepted" if held else None
        case onnx.NodeProto():
            known = message.domain in DOMAINS
            return None if known else f"has the operator {message.op_type!r} of the domain {message.domain!r}"
        case onnx.AttributeProto():
            return f"has the attribute {message.name!r} of a function" if message.ref_attr_name else None
        case onnx.TensorProto():
            return _tensor_problem(message)
    return None


def _is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is stored in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _tensor_problem(tensor: onnx.TensorProto) -> str | None:
    """Why a tensor is not accepted; None if it is."""
    if _is_external(tensor):
        return f"stores the tensor {tensor.name!r} in another file, which is not opened"
    count = math.prod(tensor.dims)
    if any(side < 0 for side in tensor.dims) or count > MOST_ELEMENTS:
        return f"has the tensor {tensor.name!r} of the shape {list(tensor.dims)[:8]}"
    bits = _BITS.get(tensor.data_type)
    if tensor.raw_data and bits is not None and len(tensor.raw_data) * 8 != count * bits:
        return f"has {len(tensor.raw_data):,} bytes in the tensor {tensor.name!r} of the shape {list(tensor.dims)[:8]}"
    return None


def _messages(proto: Any) -> Iterator[Any]:
    """A message and all messages inside it, at any depth."""
    waiting = [proto]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)
