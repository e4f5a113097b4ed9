"""The network to export, and its provenance."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.zoo.names import find_member
from alphanet_zoo.zoo.open import open_net
from alphanet_zoo.zoo.registry import open_model


@dataclass(frozen=True, eq=False)
class Source:
    """A network and its provenance.

    Args:
        net: A static net or a supernet.
        name: Name of the export.
        weights: Origin of the weights: 'random', a file name, a Hub repository or 'memory'.
        weights_sha256: SHA-256 of the weights file; None if there is no file.
        arch: Arch to extract, if ``net`` is a supernet.
        published_top1: Published ImageNet top-1 of the weights, in percent; None if it is not published.
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
        name: Name or alias of a model.
        weights: See `alphanet_zoo.zoo.registry.create_model`; None is the published weights.
        num_classes: Expected number of classes. Only random weights allow any number.

    Raises:
        UsageError: The name is unknown, a file does not exist, or the weights have another number of classes.
        AlphaNetError: The weights are not published or cannot be read.
    """
    opened = open_model(
        name, pretrained=weights is None, weights=weights, num_classes=num_classes if weights == "random" else None
    )
    net = opened.net
    _check_classes(net, num_classes)
    origin = opened.source if opened.file is None else Path(opened.source).name
    return Source(net, find_member(name).name, origin, opened.sha256, published_top1=net.top1)


def supernet_source(
    arch_file: str | os.PathLike[str], supernet: str | os.PathLike[str], num_classes: int | None = None
) -> Source:
    """A subnet of a supernet.

    Args:
        arch_file: JSON of an arch in the published form.
        supernet: What `alphanet_zoo.zoo.open.open_net` opens: a safetensors file, the folder of a training run, the
            published checkpoint, ...
        num_classes: Expected number of classes.

    Raises:
        UsageError: A file is missing, or the weights have another number of classes.
        ValueError: The arch is not valid, or the supernet does not contain it.
        AlphaNetError: A file cannot be read.
    """
    arch, opened = read_arch(arch_file), open_net(supernet)
    _check_classes(opened.net, num_classes)
    opened.net.space.validate(arch)
    if not opened.net.contains(arch):
        raise UsageError(f"{supernet} does not contain the arch of {arch_file}. Pass a supernet that does.")
    origin = opened.source if opened.file is None else opened.file.name
    return Source(opened.net, Path(arch_file).stem, origin, opened.sha256, arch)


def read_arch(path: str | os.PathLike[str]) -> ArchSpec:
    """The arch in a JSON file of the published form.

    Raises:
        UsageError: There is no such file, or it contains a Pareto front of several archs.
        AlphaNetError: The file cannot be read or is not JSON.
        ValueError: The JSON is not an arch.
    """
    if not Path(path).is_file():
        raise UsageError(f"no such file: {path}; pass a JSON file with an arch in the published form")
    try:
        spec = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AlphaNetError(f"cannot read the arch in {path}: {error}; pass JSON in the published form") from error
    if isinstance(spec, list) and spec and all(isinstance(entry, dict) and "arch" in entry for entry in spec):
        raise UsageError(
            f"{path} is a Pareto front of {len(spec)} archs; pass a file with one arch: that of alphanet search --best "
            'FILE (the most accurate), or the "arch" of one entry in a separate file'
        )
    return ArchSpec.from_dict(spec)


def tensors_sha256(net: AlphaNet) -> str:
    """SHA-256 of a network's tensors: names, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_classes(net: AlphaNet, num_classes: int | None) -> None:
    """Raises UsageError unless the weights have the expected number of classes."""
    if num_classes not in (None, net.num_classes):
        raise UsageError(
            f"--num-classes is {num_classes}, but the weights have {net.num_classes} classes; "
            "remove it, or pass weights with that number of classes"
        )
