"""The network to export, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.zoo.convert import load_upstream
from alphanet_zoo.zoo.files import load_net
from alphanet_zoo.zoo.names import find_member
from alphanet_zoo.zoo.registry import create_model

WEIGHTS_FILE = "model.safetensors"
"""The weights in a folder of ``save_pretrained``."""
FINAL_WEIGHTS = f"final/{WEIGHTS_FILE}"
"""The weights in the folder of a run that has ended."""

_PICKLES = (".pt", ".pth", ".tar")
"""Endings of the published checkpoint."""


@dataclass(frozen=True, eq=False)
class Source:
    """A network and its provenance.

    Args:
        net: A static net or a supernet.
        name: What to call the export.
        weights: Where the weights come from: 'random', a file's name, a Hub repository, 'memory'.
        weights_sha256: SHA-256 of the weights' file; None where there is no file.
        arch: Of a supernet, the arch to extract.
        published_top1: Published ImageNet top-1 of the weights, in percent; None where there is none.
    """

    net: AlphaNet
    name: str = "alphanet"
    weights: str = "memory"
    weights_sha256: str | None = None
    arch: ArchSpec | None = None
    published_top1: float | None = None


def named_source(name: str, weights: str | None, num_classes: int | None = None) -> Source:
    """A model of the zoo.

    Args:
        name: A model's name or alias.
        weights: As ``create_model`` takes them; None is the published ones.
        num_classes: The classes expected. Only random weights take any number.

    Raises:
        UsageError: Unknown name, no such file, or the weights have another number of classes.
        AlphaNetError: The weights are not published, or cannot be read.
    """
    member = find_member(name)
    net = create_model(
        name, pretrained=weights is None, weights=weights, num_classes=num_classes if weights == "random" else None
    )
    _check_classes(net, num_classes)
    origin, digest = weights or str(net.pretrained_cfg.get("hf_hub_id") or member.name), None
    path = Path(origin)
    if weights not in (None, "random") and path.exists():
        file = path / "model.safetensors" if path.is_dir() else path
        origin, digest = path.name, sha256_of(file)
    return Source(net, member.name, origin, digest, published_top1=net.pretrained_cfg.get("top1"))


def supernet_source(
    arch_file: str | os.PathLike[str], supernet_file: str | os.PathLike[str], num_classes: int | None = None
) -> Source:
    """A subnet of a supernet.

    Args:
        arch_file: JSON of an arch in the published form.
        supernet_file: A safetensors file of ``alphanet-train`` or ``alphanet-convert``, a run's folder, or the
            published checkpoint.
        num_classes: The classes expected.

    Raises:
        UsageError: A file is missing, or the weights have another number of classes.
        ValueError: The arch is none, or the supernet does not contain it.
        AlphaNetError: A file cannot be read.
    """
    arch = read_arch(arch_file)
    path = weights_file(Path(supernet_file))
    net = open_net(path)
    _check_classes(net, num_classes)
    net.space.validate(arch)
    if not net.contains(arch):
        raise UsageError(f"the net in {path} does not contain the arch of {arch_file}; give a supernet that does")
    return Source(net, Path(arch_file).stem, path.name, sha256_of(path), arch)


def open_net(path: Path) -> AlphaNet:
    """The net in a ``save_pretrained`` folder, a run of ``alphanet-train``, a ``.safetensors`` file, or the checkpoint.

    Raises:
        UsageError: There is no such file, or the run has not ended.
        AlphaNetError: It cannot be read.
    """
    if path.is_dir() and not _is_run(path):
        return AlphaNet.from_pretrained(path)
    path = weights_file(path)
    return load_upstream(path) if path.suffix in _PICKLES else load_net(path)


def weights_file(path: Path) -> Path:
    """The file that holds the weights of a path: of a folder its ``model.safetensors``, of a run its final one.

    Raises:
        UsageError: The folder holds none.
    """
    if not path.is_dir():
        return path
    file = path / FINAL_WEIGHTS if _is_run(path) else path / WEIGHTS_FILE
    if not file.is_file():
        if _is_run(path):
            raise UsageError(
                f"the run in {path} has not ended: it has no {FINAL_WEIGHTS}; let alphanet-train finish it, or take "
                f"the net of its newest checkpoint with alphanet-train export-supernet {path} -o FILE"
            )
        raise UsageError(f"{path} holds no {WEIGHTS_FILE}; give a run of alphanet-train, or a .safetensors file")
    return file


def read_arch(path: str | os.PathLike[str]) -> ArchSpec:
    """The arch in a JSON file of the published form.

    Raises:
        UsageError: There is no such file, or it holds a front of many.
        AlphaNetError: It cannot be read or is no JSON.
        ValueError: It is JSON, but no arch.
    """
    if not Path(path).is_file():
        raise UsageError(f"no such file: {path}; give a JSON file with an arch in the published form")
    try:
        spec = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AlphaNetError(f"cannot read the arch in {path}: {error}; give JSON in the published form") from error
    if isinstance(spec, list) and spec and all(isinstance(entry, dict) and "arch" in entry for entry in spec):
        raise UsageError(
            f"{path} is a front of {len(spec)} archs, not one; choose with alphanet-search --best FILE, which writes "
            'the most accurate arch, or put the "arch" of one entry in a file of its own'
        )
    return ArchSpec.from_dict(spec)


def tensors_sha256(net: AlphaNet) -> str:
    """SHA-256 of a net's tensors: names, shapes and bytes, by ascending name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _is_run(path: Path) -> bool:
    """Whether a folder is a run of ``alphanet-train``."""
    return (path / "config.yaml").is_file() and not (path / WEIGHTS_FILE).exists()


def _check_classes(net: AlphaNet, num_classes: int | None) -> None:
    """Raises where the weights have another number of classes than the one expected."""
    if num_classes not in (None, net.num_classes):
        raise UsageError(
            f"--num-classes is {num_classes}, but the weights have {net.num_classes} classes; "
            "leave it out, or give weights that were trained for that many"
        )
