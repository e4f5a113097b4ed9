"""Reads and writes a network as one safetensors file, with its config in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import FRONT_NAME, exported_in, replacing, sha256_of
from alphanet_zoo.nn.config import as_calibration
from alphanet_zoo.nn.family import Network
from alphanet_zoo.tensor_file import check_values, parse_tensor_file, read_content, read_metadata, tensors_sha256
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

DIGEST_KEY = "tensors_sha256"
"""Entry of the config in the header: the digest of the tensors as they are stored, checked on every load."""

_HALF = "float16"
_LISTED = 8


@dataclass(frozen=True, eq=False)
class NetFile:
    """A file of `save_net`, read completely; `net_of` builds its network.

    Attributes:
        path: The file.
        config: The config in its header; None if it has none.
        tensors: The tensors by name, as stored.
        sha256: SHA-256 of the file, in hexadecimal.
    """

    path: Path
    config: dict[str, Any] | None
    tensors: dict[str, Tensor]
    sha256: str


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
        AlphaNetError: A value is not finite.
    """
    _check_layers(net)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, and only torch.float32 can be saved; call net.float() first")
    description = net.config()
    if half:
        description[STORAGE_KEY], tensors = _HALF, _halved(net, tensors)
    check_values(f"the network for {os.fspath(path)}", tensors)
    description[DIGEST_KEY] = tensors_sha256(tensors)
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
        if (path / FRONT_NAME).is_file():
            nets = sorted(path.glob("*.safetensors"))
            raise UsageError(f"{path} contains a front of alphanet search; " + (
                f"pass one of its networks, such as {nets[0]}, or choose one by its cost: "
                f"create_model({os.fspath(path)!r}, macs='300M')" if nets
                else "repeat the search with --nets to write the networks, or export one with alphanet export --front"
            ))  # fmt: skip
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

    Names, shapes and types of all tensors must match exactly, and all values must be finite. If the file records the
    digest of its tensors, it is checked. Only parameters that `save_net` rounded are cast.

    Args:
        path: A file that `save_net` wrote, or a folder with one, see `weights_file`.
        config: The result of ``config`` of a network, for a file without a config in its header.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: The file is corrupt or has no config, or tensors do not match the config; the message names them.
    """
    return net_of(read_net_file(path), config=config)


def read_net_file(path: str | os.PathLike[str]) -> NetFile:
    """Reads a file once, and checks its values and the digest that it records of its tensors.

    Args:
        path: As for `load_net`.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: The file is corrupt, a value is not finite, or the tensors have another digest.
    """
    path = weights_file(path)
    return net_file(path, read_content(path))


def net_file(path: Path, content: bytes) -> NetFile:
    """As `read_net_file`, from the content of the file."""
    read = parse_tensor_file(path, content)
    config = _decoded(path, read.metadata)
    recorded = None if config is None else config.pop(DIGEST_KEY, None)
    check_values(str(path), read.tensors)
    if recorded is not None and tensors_sha256(read.tensors) != recorded:
        raise AlphaNetError(
            f"the tensors of {path} have changed since they were saved: their SHA-256 is not the one in its header; "
            "copy or download the file again"
        )
    return NetFile(path, config, read.tensors, read.sha256)


def net_of(file: NetFile, *, config: Mapping[str, Any] | None = None) -> Network:
    """The network in a file of `read_net_file`; arguments and errors as `load_net`."""
    config = file.config if config is None else config
    if config is None:
        raise _no_config(file.path)
    try:
        net = built(config)
    except UsageError as error:
        raise AlphaNetError(f"{file.path}: {error}") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise AlphaNetError(f"{file.path}: its config does not describe a network: {error}") from error
    storage = config.get(STORAGE_KEY)
    if storage not in (None, _HALF):
        raise AlphaNetError(f"{file.path} stores its weights as {storage!r}; install a newer version of alphanet-zoo")
    expected = net.state_dict()
    check_tensors(str(file.path), file.tensors, _halved(net, expected) if storage else expected)
    net.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in file.tensors.items()}, assign=True)
    net.calibration = as_calibration(config["calibration"])
    return net.eval()


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The config in the header of a file; weights are not read.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: The file is corrupt or has no config.
    """
    config = find_config(path)
    if config is None:
        raise _no_config(path)
    return config


def find_config(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """As `read_config`, but None if the header has no config."""
    config = _decoded(path, read_metadata(path))
    if config is not None:
        config.pop(DIGEST_KEY, None)
    return config


def _no_config(path: str | os.PathLike[str]) -> AlphaNetError:
    """The error for a file without a config."""
    return AlphaNetError(
        f"{os.fspath(path)} has no {METADATA_KEY!r} entry in its header, so its network is unknown; "
        "pass a file of save_net, alphanet convert or alphanet train"
    )


def _decoded(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The config in the texts of a header, with the digest of the tensors; None if there is none."""
    text = metadata.get(METADATA_KEY)
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
