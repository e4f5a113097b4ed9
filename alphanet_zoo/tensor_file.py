"""Reads safetensors files that are not trusted: one opened file is hashed, checked and parsed.

The reader of the safetensors package accepts a header with duplicate keys, and says nothing about values. This one
refuses duplicate keys, headers above `HEADER_LIMIT` and values that no network can have.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import open_regular

HEADER_LIMIT = 16 * 2**20
"""Largest header, in bytes. That of the ImageNet supernet has 0.1 MB."""

_LENGTH_BYTES = 8
_METADATA = "__metadata__"


@dataclass(frozen=True, eq=False)
class TensorFile:
    """The content of a safetensors file.

    Attributes:
        tensors: The tensors by name.
        metadata: The texts in the header.
        sha256: SHA-256 of the file from which both were read, in hexadecimal.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def read_tensor_file(path: str | os.PathLike[str]) -> TensorFile:
    """Reads a file completely, so that it may change afterwards.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: The file is corrupt, has duplicate keys or too large a header.
    """
    return parse_tensor_file(path, read_content(path))


def read_content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, for `parse_tensor_file`.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: It cannot be read.
    """
    with _opened(path) as file:
        return file.read()


def parse_tensor_file(path: str | os.PathLike[str], content: bytes) -> TensorFile:
    """As `read_tensor_file`, from the content of the file; ``path`` is for messages."""
    header = _header(path, io.BytesIO(content), len(content))
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise _unreadable(path, str(error)) from error
    return TensorFile(tensors, header, hashlib.sha256(content).hexdigest())


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts in the header of a file; tensors are not read.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: The header is corrupt, has duplicate keys or is too large.
    """
    with _opened(path) as file:
        return _header(path, file, os.fstat(file.fileno()).st_size)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors: names, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_values(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Checks that all values are finite, and that no variance is negative.

    Args:
        source: Origin of the tensors, for the message.
        tensors: Tensors by name.

    Raises:
        AlphaNetError: A value is not finite, or a running variance is negative; the message names the tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        if not bool(tensor.isfinite().all()):
            raise AlphaNetError(f"{source}: {name} has values that are not finite; do not use these weights")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise AlphaNetError(f"{source}: the variance {name} has negative values; do not use these weights")


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    """The open file."""
    if os.path.isdir(path):
        raise UsageError(f"{os.fspath(path)} is a folder; pass a .safetensors file")
    try:
        return open_regular(path)
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {os.fspath(path)}; pass a .safetensors file that exists") from error
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def _header(path: str | os.PathLike[str], file: BinaryIO, size: int) -> dict[str, str]:
    """Checks the header at the start of a file; returns its texts."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
        raise _unreadable(path, "it is shorter than its header states")
    if length > HEADER_LIMIT:
        raise _unreadable(path, f"its header has {length:,} bytes; at most {HEADER_LIMIT:,} are accepted")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"its header is not valid: {error}") from error
    try:
        metadata: dict[str, str] = header.pop(_METADATA, {})
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        texts = all(isinstance(text, str) for text in metadata.values())
    except (AttributeError, TypeError, KeyError, IndexError, ValueError, OverflowError) as error:
        raise _unreadable(path, "its header is not valid") from error
    if not texts or end != size - _LENGTH_BYTES - length:
        raise _unreadable(path, "its size is not the one in its header" if texts else "its header is not valid")
    return metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are unique."""
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in names if names.count(name) > 1)!r}")
    return result


def _unreadable(path: str | os.PathLike[str], reason: str) -> AlphaNetError:
    """The error for a file that cannot be read."""
    return AlphaNetError(
        f"{os.fspath(path)} is not a readable safetensors file ({reason}): truncated, corrupt or another format; "
        "download it again, or convert the authors' checkpoint with alphanet convert"
    )
