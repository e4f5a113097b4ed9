"""Reads and writes a network as one safetensors file, with its config in the header."""

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
from alphanet_zoo.files import exported_in, replacing, sha256_of
from alphanet_zoo.nn.config import as_calibration
from alphanet_zoo.nn.family import Network
from alphanet_zoo.zoo.built import built

METADATA_KEY = "alphanet"
"""Header entry with the network's config, as JSON. One key only: safetensors writes several in a random order."""

WEIGHTS_NAME = "model.safetensors"
"""The weights in a folder of ``save_pretrained``, and in `RUN_FINAL`."""

RUN_CONFIG = "config.yaml"
"""The file that marks the output folder of a training run."""

RUN_FINAL = "final"
"""Folder with the trained network in the output folder of a training run."""

STORAGE_KEY = "storage"
"""Entry of the config with the type in which parameters are stored; absent for float32."""

_HALF = "float16"
_LISTED = 8


def save_net(net: Network, path: str | os.PathLike[str], *, half: bool = False) -> str:
    """Writes weights and config of ``net`` to one safetensors file, completely or not at all.

    Equal networks give equal bytes.

    Args:
        net: A static net or a supernet; its floating-point tensors are float32.
        path: The file; its folder is created if it does not exist.
        half: Round parameters to float16, which halves the size; running statistics stay float32. `load_net` returns
            the rounded values as float32.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        ValueError: A tensor has another floating-point type or exceeds the range of float16; or a layer of ``net`` has
            been replaced, pruned or parametrised, so that `load_net` could not read the file.
    """
    _check_layers(net)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, and only torch.float32 can be saved; call net.float() first")
    description = net.config()
    if half:
        description[STORAGE_KEY], tensors = _HALF, _halved(net, tensors)
    config = json.dumps(description, sort_keys=True, allow_nan=False)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: config})
        return sha256_of(temporary)


def _check_layers(net: Network) -> None:
    """Checks that a network has exactly the tensors that its config implies."""
    differing = sorted(net.described_tensors() ^ net.state_dict().keys())
    if differing:
        raise ValueError(
            "only a network with its original layers can be saved; tensors that are missing or unexpected: "
            f"{_listed(differing)}. Save a copy with plain layers, net.extract(net.arch), and a Linear as classifier."
        )


def is_run(path: Path) -> bool:
    """Whether a folder is the output of a training run."""
    return (path / RUN_CONFIG).is_file() and not (path / WEIGHTS_NAME).exists()


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The safetensors file of a network: a file itself, or the one in a `save_pretrained` or training run's folder.

    Raises:
        UsageError: ``path`` is a folder without a network, or a training run that has not ended.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if is_run(path):
        if not (path / RUN_FINAL / WEIGHTS_NAME).is_file():
            raise UsageError(
                f"The run in {path} has not ended ({RUN_FINAL}/{WEIGHTS_NAME} not found). Let alphanet train finish "
                f"it, or extract its newest checkpoint: alphanet export-supernet {path} -o FILE"
            )
        return path / RUN_FINAL / WEIGHTS_NAME
    if not (path / WEIGHTS_NAME).is_file():
        exported = exported_in(path)
        other = "pass a .safetensors file" if exported is None else (
            f"open its exported file with alphanet predict --file {exported} (Classifier.load)")  # fmt: skip
        raise UsageError(
            f"{path} contains neither {WEIGHTS_NAME} (save_pretrained) nor {RUN_CONFIG} (a training run). Pass a "
            f"folder with one of them, or {other}."
        )
    return path / WEIGHTS_NAME


def load_net(path: str | os.PathLike[str], *, config: Mapping[str, Any] | None = None) -> Network:
    """Loads the network in a safetensors file, in eval mode, with its calibration record.

    Names, shapes and types of all tensors must match exactly. Only parameters that `save_net` rounded are cast.

    Args:
        path: A file that `save_net` wrote, or a folder with one, see `weights_file`.
        config: The result of ``config`` of a network, for a file without a config in its header.

    Raises:
        UsageError: There is no such file.
        AlphaNetError: The file is corrupt or has no config, or tensors do not match the config; the message names them.
    """
    path = weights_file(path)
    if config is None:
        config = read_config(path)
    try:
        net = built(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise AlphaNetError(f"{os.fspath(path)}: its config does not describe a network: {error}") from error
    storage = config.get(STORAGE_KEY)
    if storage not in (None, _HALF):
        raise AlphaNetError(
            f"{os.fspath(path)} stores its weights as {storage!r}; install a newer version of alphanet-zoo"
        )
    tensors, expected = read_tensors(path), net.state_dict()
    check_tensors(os.fspath(path), tensors, _halved(net, expected) if storage else expected)
    net.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}, assign=True)
    net.calibration = as_calibration(config["calibration"])
    return net.eval()


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The config in the header of a file; weights are not read.

    Raises:
        UsageError: There is no such file.
        AlphaNetError: The file is corrupt or has no config.
    """
    config = find_config(path)
    if config is None:
        raise AlphaNetError(
            f"{os.fspath(path)} has no {METADATA_KEY!r} entry in its header, so its network is unknown; "
            "pass a file of save_net, alphanet convert or alphanet train"
        )
    return config


def find_config(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """As `read_config`, but None if the header has no config."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AlphaNetError(f"{os.fspath(path)}: the {METADATA_KEY!r} entry of its header is not JSON") from error
    if not isinstance(config, dict):
        raise AlphaNetError(f"{os.fspath(path)}: the {METADATA_KEY!r} entry of its header is not a JSON object")
    return config


def check_tensors(source: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Checks that ``found`` has exactly the names, shapes and types of ``expected``.

    Args:
        source: Origin of ``found``, for the message.
        found: Tensors by name.
        expected: Tensors by name; their values are ignored.

    Raises:
        AlphaNetError: They differ; the message names the first few tensors that are missing, unexpected or wrong.
    """
    shared = [name for name in expected if name in found]
    faults = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "wrong shape": [
            f"{name} {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
            for name in shared
            if found[name].shape != expected[name].shape
        ],
        "wrong type": [
            f"{name} {found[name].dtype}, expected {expected[name].dtype}"
            for name in shared
            if found[name].dtype != expected[name].dtype
        ],
    }
    found_faults = [f"{kind}: {_listed(items)}" for kind, items in faults.items() if items]
    if found_faults:
        raise AlphaNetError(f"the tensors of {source} do not fit; {'; '.join(found_faults)}")


def _listed(items: Iterable[str]) -> str:
    """The first few items, and the number of the others."""
    items = list(items)
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more


def _halved(net: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network, with the parameters as float16."""
    parameters = {name for name, _ in net.named_parameters()}
    halved = {name: tensor.half() if name in parameters else tensor for name, tensor in tensors.items()}
    for name, tensor in halved.items():
        if not tensor.is_meta and name in parameters and bool((tensor.isinf() & tensors[name].isfinite()).any()):
            raise ValueError(f"{name} has values outside the range of float16; save it with half=False")
    return halved


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a file, as copies, so that the file may change afterwards.

    Raises:
        UsageError: There is no such file.
        AlphaNetError: The file is corrupt.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}


def _opened(path: str | os.PathLike[str]) -> Any:
    """The open safetensors file; its header is valid and fits its size."""
    if Path(path).is_dir():
        raise UsageError(f"{os.fspath(path)} is a folder; pass a .safetensors file")
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {os.fspath(path)}; pass a .safetensors file that exists") from error
    except (SafetensorError, OSError) as error:
        raise AlphaNetError(
            f"{os.fspath(path)} is not a readable safetensors file ({error}): truncated, corrupt or another format; "
            "download it again, or convert the authors' checkpoint with alphanet convert"
        ) from error
