"""A net in one file: safetensors that describe themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import replacing, sha256_of
from alphanet_zoo.nn.model import AlphaNet

METADATA_KEY = "alphanet"
"""Where the header keeps the net's config as JSON. One key only: safetensors writes several in a random order."""

_LISTED = 8


def save_net(net: AlphaNet, path: str | os.PathLike[str]) -> str:
    """Writes weights and config of ``net`` to one safetensors file, wholly or not at all.

    The same net gives the same bytes.

    Args:
        net: A static net or a supernet; its floating-point tensors are float32.
        path: The file; its folder is made where it is missing.

    Returns:
        The file's SHA-256, in hexadecimal.

    Raises:
        ValueError: A tensor has another floating-point type.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; files hold torch.float32: call net.float() first")
    config = json.dumps(net.config(), sort_keys=True, allow_nan=False)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: config})
        return sha256_of(temporary)


def load_net(path: str | os.PathLike[str], *, config: Mapping[str, Any] | None = None) -> AlphaNet:
    """The net in a safetensors file, in eval mode, with its calibration record.

    Every tensor must be there, fit, and belong: nothing is skipped, cast or filled in.

    Args:
        path: A file that `save_net` wrote.
        config: What ``AlphaNet.config`` gave, for a file that does not describe itself.

    Raises:
        UsageError: There is no such file.
        AlphaNetError: The file is corrupt, has no config, or its tensors are not those of its config; names them.
    """
    if config is None:
        config = read_config(path)
    with torch.device("meta"):
        try:
            net = AlphaNet.from_config(config)
        except (ValueError, TypeError, AttributeError) as error:
            raise AlphaNetError(f"{os.fspath(path)} describes no net: {error}") from error
    tensors = _read_tensors(path)
    check_tensors(os.fspath(path), tensors, net.state_dict())
    net.load_state_dict(tensors, assign=True)
    return net.eval()


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The config in a file's header; reads no weights.

    Raises:
        UsageError: There is no such file.
        AlphaNetError: The file is corrupt or has no config.
    """
    config = find_config(path)
    if config is None:
        raise AlphaNetError(
            f"{os.fspath(path)} does not say which net it holds: its header has no {METADATA_KEY!r} entry; "
            "write it with save_net, alphanet-convert or alphanet-train"
        )
    return config


def find_config(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """As `read_config`, but None where the header has no config."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AlphaNetError(f"{os.fspath(path)}: the {METADATA_KEY!r} entry of its header is not JSON") from error
    if not isinstance(config, dict):
        raise AlphaNetError(f"{os.fspath(path)}: the {METADATA_KEY!r} entry of its header is no JSON object")
    return config


def check_tensors(source: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Checks that ``found`` has the names, shapes and types of ``expected``, no more and no less.

    Args:
        source: Where ``found`` comes from, for the message.
        found: Tensors by name.
        expected: Tensors by name; their values do not matter.

    Raises:
        AlphaNetError: Names what is missing, unexpected or wrong, the first few of each kind.
    """
    shared = [name for name in expected if name in found]
    faults = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "wrong shape": [
            f"{name} {tuple(found[name].shape)} where {tuple(expected[name].shape)} belongs"
            for name in shared
            if found[name].shape != expected[name].shape
        ],
        "wrong type": [
            f"{name} {found[name].dtype} where {expected[name].dtype} belongs"
            for name in shared
            if found[name].dtype != expected[name].dtype
        ],
    }
    told = [f"{kind}: {_listed(items)}" for kind, items in faults.items() if items]
    if told:
        raise AlphaNetError(f"the tensors of {source} do not fit; {'; '.join(told)}")


def _listed(items: Iterable[str]) -> str:
    """The first few items, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more


def _read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a file, as copies: the file may change afterwards."""
    with _opened(path) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}


def _opened(path: str | os.PathLike[str]) -> Any:
    """The open safetensors file, its header checked against its size."""
    if Path(path).is_dir():
        raise UsageError(f"{os.fspath(path)} is a folder; give a .safetensors file")
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {os.fspath(path)}; give a .safetensors file that exists") from error
    except (SafetensorError, OSError) as error:
        raise AlphaNetError(
            f"{os.fspath(path)} is no readable safetensors file ({error}): truncated, corrupt or another format; "
            "get it again, or turn a checkpoint of the authors into one with alphanet-convert"
        ) from error
