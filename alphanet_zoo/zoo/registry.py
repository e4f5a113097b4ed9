"""Creates models by name."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, cast, overload

import torch

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.search.limits import MACS
from alphanet_zoo.space.presets import FamilyMember
from alphanet_zoo.units import parse_budget
from alphanet_zoo.zoo.families import families, shipped_family_of
from alphanet_zoo.zoo.fronts import open_from_front
from alphanet_zoo.zoo.names import family_of, find_member, is_name
from alphanet_zoo.zoo.open import OpenedNet, open_net
from alphanet_zoo.zoo.pins import PUBLISHED_CFG
from alphanet_zoo.zoo.select import select_member


@overload
def create_model(
    name: str,
    pretrained: bool = ...,
    num_classes: int | None = ...,
    weights: str | os.PathLike[str] | None = ...,
    *,
    features_only: Literal[False] = ...,
    out_indices: int | Sequence[int] | None = ...,
    in_chans: int = ...,
    global_pool: str | None = ...,
    drop_rate: float = ...,
    drop_path_rate: float = ...,
    cache_dir: str | os.PathLike[str] | None = ...,
    revision: str | None = ...,
    macs: None = ...,
) -> AlphaNet: ...
@overload
def create_model(
    name: str,
    pretrained: bool = ...,
    num_classes: int | None = ...,
    weights: str | os.PathLike[str] | None = ...,
    *,
    features_only: Literal[True],
    out_indices: int | Sequence[int] | None = ...,
    in_chans: int = ...,
    global_pool: str | None = ...,
    drop_rate: float = ...,
    drop_path_rate: float = ...,
    cache_dir: str | os.PathLike[str] | None = ...,
    revision: str | None = ...,
    macs: float | str | None = ...,
) -> FeatureExtractor: ...
@overload
def create_model(name: str, *, features_only: Literal[False] = ..., macs: float | str, **options: Any) -> Network: ...
def create_model(
    name: str,
    pretrained: bool = False,
    num_classes: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    in_chans: int = 3,
    global_pool: str | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    macs: float | str | None = None,
    **unknown: Any,
) -> Network | FeatureExtractor:
    """Creates a model by name: newly initialised in training mode, or with loaded or random weights in eval mode.

    Args:
        name: One of `list_models`, or an alias. With ``macs``, a family, or a folder or a Hub repository with a
            published front.
        pretrained: Load the published weights: those in the package if it includes this model, else those of the Hub
            organisation ``$ALPHANET_HUB_ORG`` if it is set, else those that ``alphanet publish --to local`` installed
            on this machine, else those of `alphanet_zoo.zoo.pins.PINS`.
        num_classes: Number of classes. If the weights have another number, the classifier is newly initialised. None:
            the number of the weights.
        weights: Weights to use instead of the published ones: 'random' (random values for timing, the same on
            every call), a ``.safetensors`` file, a folder of ``save_pretrained``, or a Hub repository.
        features_only: Return a `FeatureExtractor`, the network without its head.
        out_indices: Feature levels to return, with ``features_only``; negative ones count from the end, an integer n
            means the last n, None all.
        in_chans: Channels of the images. If the weights have another number, those of the first convolution are
            adapted: summed for one channel, else repeated and scaled.
        global_pool: 'avg', or '' for no pooling, which requires ``num_classes=0``. None is that of the weights.
        drop_rate: See `AlphaNet`.
        drop_path_rate: See `AlphaNet`.
        cache_dir: The Hub cache; None is the default of huggingface_hub.
        revision: Revision of the Hub repository; None is the pinned one, or ``main``.
        macs: Choose the most accurate model of the family ``name`` within this many MACs, such as '40M' (see
            `alphanet_zoo.zoo.select.select_member`), or the most accurate subnet of the front in ``name``, with its
            weights (see `alphanet_zoo.zoo.fronts.open_from_front`).
        **unknown: Not allowed; the error suggests the nearest argument.

    Returns:
        An `AlphaNet`; with ``macs`` and a front, a network of the front's family; with ``features_only``, a
        `FeatureExtractor`.

    Raises:
        UsageError: The name or an argument is unknown, a file does not exist, or an argument requires another one.
        ValueError: A number is out of its domain.
        TargetError: No model or subnet is within ``macs``.
        AlphaNetError: The weights are not published, cannot be downloaded or read, or are those of another model.
    """
    refuse_unknown("create_model", unknown, list(inspect.signature(create_model).parameters)[:-1])
    if out_indices is not None and not features_only:
        raise UsageError("out_indices requires features_only=True")
    if macs is not None and not os.path.exists(name):
        if is_name(name):
            raise UsageError(f"{name} is a model's name, and macs chooses a model; pass a family "
                             f"({', '.join(families())}), or leave macs out")  # fmt: skip
        if name in families():
            budget = parse_budget(macs if isinstance(macs, str) else f"{macs:f}")
            name, macs = select_member(name, {MACS: budget}).member.name, None
    if macs is not None:
        if weights is not None:
            raise UsageError("macs chooses weights from a front; leave weights out")
        chosen = open_from_front(name, {"macs": macs}, cache_dir=cache_dir, revision=revision).net
        chosen.adapt(num_classes, in_chans, global_pool)
        chosen.drop_rate, chosen.drop_path_rate = drop_rate, drop_path_rate
        return FeatureExtractor(chosen, out_indices) if features_only else chosen
    opened = open_model(
        name, pretrained, num_classes, weights, in_chans=in_chans, global_pool=global_pool,
        drop_rate=drop_rate, drop_path_rate=drop_path_rate, cache_dir=cache_dir, revision=revision,
    )  # fmt: skip
    net = cast(AlphaNet, opened.net)
    return FeatureExtractor(net, out_indices) if features_only else net


def open_model(
    name: str,
    pretrained: bool = False,
    num_classes: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    in_chans: int = 3,
    global_pool: str | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> OpenedNet:
    """As `create_model`, but returns the origin of the weights too (``source`` is 'random' for random ones)."""
    member = find_member(name)
    fresh = weights == "random" or (weights is None and not pretrained)
    if fresh and revision is not None:
        raise UsageError(f"revision={revision!r} requires weights on the Hub")
    with nullcontext() if fresh else torch.device("meta"):  # On meta this only checks the arguments.
        net = AlphaNet(
            member.arch,
            member.space,
            member.num_classes if num_classes is None else num_classes,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            in_chans=in_chans,
            global_pool="avg" if global_pool is None else global_pool,
        )
    opened = OpenedNet(net, "model", "random")
    if weights == "random":
        fill_live(net).eval()
    elif not fresh:
        opened = open_net(name if weights is None else weights, cache_dir=cache_dir, revision=revision)
        _check_is(member, opened.net, opened.source)
        net = cast(AlphaNet, opened.net)  # The networks of a member's space are.
    net.adapt(num_classes, in_chans, global_pool)
    net.drop_rate, net.drop_path_rate = drop_rate, drop_path_rate
    _describe(net, member, loaded=not fresh)
    return opened


def refuse_unknown(function: str, arguments: Iterable[str], known: Sequence[str]) -> None:
    """Raises UsageError for the first of ``arguments``, with the most similar argument that ``function`` has."""
    for argument in arguments:
        nearest = difflib.get_close_matches(argument, known, n=1, cutoff=0.0)[0]
        raise UsageError(
            f"{function} has no argument {argument!r}; did you mean {nearest}? Choose from {', '.join(known)}"
        )


def _describe(net: AlphaNet, member: FamilyMember, *, loaded: bool) -> None:
    """Completes the ``pretrained_cfg`` and the ``top1`` of a network that `create_model` made.

    License, origin and ``top1`` describe weights, not a name. They are set only if the weights are derived from the
    published or included ones, and ``top1`` only if the classes and the input channels are also the same. A ``top1``
    that was measured with the weights, as by ``alphanet publish --val``, stays.
    """
    cfg, shipped = net.pretrained_cfg, shipped_family_of(member)
    cfg["architecture"] = member.name
    if not loaded:
        if shipped is not None:
            cfg["crop_pct"] = shipped.crop_pct
        return
    measured = net.top1 if _has_its_classifier(net, member) else None
    net.top1 = published_top1(net, member) if measured is None else measured


def _has_its_classifier(net: Network, member: FamilyMember) -> bool:
    """Whether a network is the model as it was trained, calibrated, with its classes and input channels."""
    return net.calibration != "training" and net.num_classes == member.num_classes and net.in_chans == 3


def published_top1(net: Network, member: FamilyMember) -> float | None:
    """The known top-1 of a model's weights, in percent; None if they are not the published or included ones.

    Args:
        net: The network with the weights, or a supernet that contains the model.
        member: The model.
    """
    if not _has_its_classifier(net, member):
        return None
    if shipped_family_of(member) is not None:
        return net.top1
    published = net.pretrained_cfg.get("origin_url") == PUBLISHED_CFG[family_of(member)]["origin_url"]
    return member.top1 if published else None


def _check_is(member: FamilyMember, net: Network, source: str) -> None:
    """Raises unless ``net`` is the model ``member``."""
    if net.supernet and net.space == member.space and net.contains(member.arch):
        raise AlphaNetError(
            f"{source} is a supernet, and its subnet {member.name} requires calibration. Write the weights of the "
            f"subnet: alphanet export --model {member.name} --supernet {source} --calib-data FOLDER --format "
            "safetensors (or pass them all to alphanet export or az.export)"
        )
    if net.arch != member.arch or net.space != member.space:
        raise AlphaNetError(f"{source} contains {described(net)}, not {member.name} ({member.arch})")


def member_of(net: Network) -> FamilyMember | None:
    """The model whose arch and search space a network has; None if there is none."""
    members = (m for members in families().values() for m in members if (m.arch, m.space) == (net.arch, net.space))
    return next(members, None)


def described(net: Network) -> str:
    """Name (or search space) and arch of a network, for messages."""
    member = member_of(net)
    named = f"a network of the space {net.space.name}" if member is None else member.name
    return f"a supernet of the space {net.space.name}" if net.supernet else f"{named} ({net.arch})"
