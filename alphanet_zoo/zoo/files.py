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

STORAGE_KEY = "storage"
"""Entry of a header's config that says how parameters are stored, where that is not float32."""

_HALF = "float16"
_LISTED = 8


def save_net(net: AlphaNet, path: str | os.PathLike[str], *, half: bool = False) -> str:
    """Writes weights and config of ``net`` to one safetensors file, wholly or not at all.

    The same net gives the same bytes.

    Args:
        net: A static net or a supernet; its floating-point tensors are float32.
        path: The file; its folder is made where it is missing.
        half: Round parameters to float16, for half the bytes; running statistics stay float32. `load_net` gives the
            rounded values back as float32.

    Returns:
        The file's SHA-256, in hexadecimal.

    Raises:
        ValueError: A tensor has another floating-point type, or is beyond float16's range; or a layer of ``net`` has
            been replaced, pruned or parametrised, so that `load_net` could not read the file.
    """
    _check_layers(net)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; files hold torch.float32: call net.float() first")
    description = net.config()
    if half:
        description[STORAGE_KEY], tensors = _HALF, _halved(net, tensors)
    config = json.dumps(description, sort_keys=True, allow_nan=False)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: config})
        return sha256_of(temporary)


def _check_layers(net: AlphaNet) -> None:
    """Checks that a net has the tensors of its config."""
    with torch.device("meta"):
        expected = AlphaNet.from_config(net.config()).state_dict().keys()
    differing = sorted(expected ^ net.state_dict().keys())
    if differing:
        raise ValueError(
            f"a file holds a net of plain layers, and this one differs in {_listed(differing)}; save a plain copy, "
            "net.extract(net.arch), with a Linear as classifier"
        )


def load_net(path: str | os.PathLike[str], *, config: Mapping[str, Any] | None = None) -> AlphaNet:
    """The net in a safetensors file, in eval mode, with its calibration record.

    Every tensor must be there, fit, and belong: nothing is skipped or filled in, and nothing is cast but what
    `save_net` rounded.

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
    storage = config.get(STORAGE_KEY)
    if storage not in (None, _HALF):
        raise AlphaNetError(f"{os.fspath(path)} stores its weights as {storage!r}; get a newer version of this package")
    tensors, expected = read_tensors(path), net.state_dict()
    check_tensors(os.fspath(path), tensors, _halved(net, expected) if storage else expected)
    net.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}, assign=True)
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


def _halved(net: AlphaNet, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The net's tensors, its parameters as float16."""
    parameters = {name for name, _ in net.named_parameters()}
    halved = {name: tensor.half() if name in parameters else tensor for name, tensor in tensors.items()}
    for name, tensor in halved.items():
        if not tensor.is_meta and name in parameters and bool((tensor.isinf() & tensors[name].isfinite()).any()):
            raise ValueError(f"{name} has values beyond float16's range; save it with half=False")
    return halved


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a file, as copies: the file may change afterwards.

    Raises:
        UsageError: There is no such file.
        AlphaNetError: The file is corrupt.
    """
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
