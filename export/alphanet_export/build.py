"""The network to export, and its provenance."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from alphanet_export.placing import default_name
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.family import Arch
from alphanet_zoo.space.presets import FamilyMember
from alphanet_zoo.zoo.archs import ENDS, NamedArch, find_arch
from alphanet_zoo.zoo.names import is_name
from alphanet_zoo.zoo.open import OpenedNet, open_net
from alphanet_zoo.zoo.registry import described, member_of, open_model, published_top1


@dataclass(frozen=True, eq=False)
class Source:
    """A network and its provenance.

    Args:
        net: A static net or a supernet.
        name: Name of the export.
        weights: Origin of the weights: 'random', a file name, a Hub repository or 'memory'.
        weights_sha256: SHA-256 of the weights file; None if there is no file.
        arch: Arch to extract, if ``net`` is a supernet.
        published_top1: Published top-1 of the weights, in percent; None if it is not known.
        run: Output folder of the training run that the network is from; None if there is none.
    """

    net: Network
    name: str = "alphanet"
    weights: str = "memory"
    weights_sha256: str | None = None
    arch: Arch | None = None
    published_top1: float | None = None
    run: Path | None = None


def open_source(
    network: str | os.PathLike[str] | Network | None,
    arch: str | os.PathLike[str] | Arch | NamedArch | None = None,
    *,
    num_classes: int | None = None,
    name: str | None = None,
) -> Source:
    """The network to export: a static network, or a subnet of a supernet.

    Args:
        network: A network; anything that `alphanet_zoo.zoo.open.open_net` opens; 'random' for random weights; or None
            for the published weights of the model that ``arch`` names.
        arch: The arch to export, see `alphanet_zoo.zoo.archs.find_arch`. None: that of a static network.
        num_classes: Expected number of classes. Only random weights allow any number.
        name: Name of the export. None: that of the model or arch, else of the file or folder.

    Raises:
        UsageError: The network or arch does not exist, ``network`` is a supernet and ``arch`` is None, ``network`` does
            not contain ``arch``, or the weights have another number of classes.
        AlphaNetError: The weights are not published or cannot be read, or are those of another model.
        ValueError: The arch is not valid.
    """
    if arch is None and isinstance(network, str) and is_name(network) and not Path(network).exists():
        network, arch = None, network
    if isinstance(arch, str | os.PathLike) and os.fspath(arch) not in ENDS:
        arch = find_arch(arch)
    if network is None or network == "random":
        member = arch.member if isinstance(arch, NamedArch) else None
        if member is None:
            raise UsageError("weights are required for an arch that is not a model's name; pass a network")
        return _named_source(member, network, num_classes, name)
    opened = _opened(network)
    _check_classes(opened.net, num_classes)
    origin = opened.source if opened.file is None else opened.file.name
    chosen = _chosen(opened, arch)
    member = member_of(opened.net) if chosen is None else chosen.member
    source = Source(
        opened.net,
        name or _name(network, opened, chosen),
        origin,
        opened.sha256,
        published_top1=None if member is None else published_top1(opened.net, member),
        run=Path(opened.source) if opened.kind == "run" else None,
    )
    if chosen is None or (not opened.net.supernet and chosen.arch == opened.net.arch):
        return source
    return replace(source, arch=chosen.arch)


def _named_source(member: FamilyMember, weights: str | None, num_classes: int | None, name: str | None) -> Source:
    """A model with its published or random weights."""
    opened = open_model(
        member.name, pretrained=weights is None, weights=weights, num_classes=None if weights is None else num_classes
    )
    _check_classes(opened.net, num_classes)
    top1 = published_top1(opened.net, member)
    return Source(opened.net, name or member.name, opened.source, opened.sha256, published_top1=top1)


def _opened(network: str | os.PathLike[str] | Network) -> OpenedNet:
    """The network, opened."""
    if isinstance(network, Network):
        return OpenedNet(network, "file", "memory")
    if isinstance(network, nn.Module):
        raise UsageError(
            f"a {type(network).__name__} has no arch, preprocessing and calibration record; pass an AlphaNet, or "
            "az.slimmable(net) and arch=. supernet.subnet(arch) is a subnet that can be exported; its attribute net is "
            "the module that supernet.extract(arch) returns"
        )
    return open_net(network)


def _chosen(opened: OpenedNet, arch: str | os.PathLike[str] | Arch | NamedArch | None) -> NamedArch | None:
    """The arch to take from a network; None for the network itself.

    Raises:
        UsageError: The network is a supernet and no arch is chosen, or it does not contain the arch.
    """
    net = opened.net
    if arch is None:
        if net.supernet:
            raise UsageError(
                f"{opened.source} is a supernet; choose the subnet to export: --arch FILE|NAME, --model NAME or "
                "--flops BUDGET (arch=)"
            )
        return None
    if isinstance(arch, str | os.PathLike):
        arch = find_arch(arch, net.space)
    elif not isinstance(arch, NamedArch):
        arch = NamedArch("", arch)
    if arch.member is not None and (arch.member.space != net.space or not net.contains(arch.arch)):
        raise AlphaNetError(f"{opened.source} contains {described(net)}, not {arch.name} ({arch.arch})")
    net.space.validate(arch.arch)
    if not net.contains(arch.arch):
        raise UsageError(
            f"{opened.source} contains {described(net)}, which does not contain the arch {arch.name or arch.arch}. "
            "Pass a supernet that does."
        )
    return arch


def _name(network: str | os.PathLike[str] | Network, opened: OpenedNet, chosen: NamedArch | None) -> str:
    """The default name of an export."""
    if chosen is not None and chosen.name:
        return chosen.name
    if isinstance(network, Network):
        cfg = network.pretrained_cfg
        return str(cfg.get("name") or cfg["architecture"])
    return default_name(network)


def tensors_sha256(net: Network) -> str:
    """SHA-256 of a network's tensors: names, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_classes(net: Network, num_classes: int | None) -> None:
    """Raises UsageError unless the weights have the expected number of classes."""
    if num_classes not in (None, net.num_classes):
        raise UsageError(
            f"--num-classes is {num_classes}, but the weights have {net.num_classes} classes; "
            "remove it, or pass weights with that number of classes"
        )
