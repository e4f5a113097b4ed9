"""Models by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal, overload

import torch

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import FamilyMember
from alphanet_zoo.zoo.families import families, shipped_family_of
from alphanet_zoo.zoo.names import family_of, find_member
from alphanet_zoo.zoo.open import OpenedNet, open_net
from alphanet_zoo.zoo.pins import PUBLISHED_CFG


@overload
def create_model(
    name: str,
    pretrained: bool = ...,
    num_classes: int | None = ...,
    weights: str | os.PathLike[str] | None = ...,
    *,
    features_only: Literal[False] = ...,
    out_indices: Sequence[int] | None = ...,
    drop_rate: float = ...,
    drop_path_rate: float = ...,
    cache_dir: str | os.PathLike[str] | None = ...,
    revision: str | None = ...,
) -> AlphaNet: ...
@overload
def create_model(
    name: str,
    pretrained: bool = ...,
    num_classes: int | None = ...,
    weights: str | os.PathLike[str] | None = ...,
    *,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = ...,
    drop_rate: float = ...,
    drop_path_rate: float = ...,
    cache_dir: str | os.PathLike[str] | None = ...,
    revision: str | None = ...,
) -> FeatureExtractor: ...
def create_model(
    name: str,
    pretrained: bool = False,
    num_classes: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> AlphaNet | FeatureExtractor:
    """The model of a name: with fresh weights and in training mode, or with weights and in eval mode.

    Args:
        name: One of `list_models`, or an alias.
        pretrained: Load the published weights: those that come with the package where it has any of this model, else
            those of ``$ALPHANET_HUB_ORG`` where set, else the registry's pin.
        num_classes: Outputs of the classifier; where the weights have another number, the body is kept and the head
            is new. None: the weights' number.
        weights: Instead of the published ones: 'random' (live made-up values, the same ones every time, for timing),
            a ``.safetensors`` file, a folder of ``save_pretrained``, or a Hub repository.
        features_only: Give a `FeatureExtractor`, the net without its head.
        out_indices: Levels that it gives; None is all.
        drop_rate: As in `AlphaNet`.
        drop_path_rate: As in `AlphaNet`.
        cache_dir: The Hub cache; None is huggingface_hub's own.
        revision: Revision of the Hub repository; None is the pinned one, or ``main``.

    Raises:
        UsageError: Unknown name, no such file, or an argument that goes with another.
        ValueError: A number is out of its domain.
        AlphaNetError: No published weights, or the weights cannot be had or are not this model's.
    """
    if out_indices is not None and not features_only:
        raise UsageError("out_indices requires features_only=True")
    net = open_model(
        name, pretrained, num_classes, weights,
        drop_rate=drop_rate, drop_path_rate=drop_path_rate, cache_dir=cache_dir, revision=revision,
    ).net  # fmt: skip
    return FeatureExtractor(net, out_indices) if features_only else net


def open_model(
    name: str,
    pretrained: bool = False,
    num_classes: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> OpenedNet:
    """As `create_model`, with where the weights were found (``source`` is 'random' for random ones)."""
    member = find_member(name)
    fresh = weights == "random" or (weights is None and not pretrained)
    if fresh and revision is not None:
        raise UsageError(f"revision={revision!r} requires weights on the Hub")
    with nullcontext() if fresh else torch.device("meta"):  # on meta it only checks the arguments
        net = AlphaNet(
            member.arch,
            member.space,
            member.num_classes if num_classes is None else num_classes,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
    opened = OpenedNet(net, "model", "random")
    if weights == "random":
        fill_live(net).eval()
    elif not fresh:
        opened = open_net(name if weights is None else weights, cache_dir=cache_dir, revision=revision)
        net = opened.net
        _check_is(member, net, opened.source)
    net.drop_rate, net.drop_path_rate = drop_rate, drop_path_rate
    if num_classes is not None and num_classes != net.num_classes:
        net.reset_classifier(num_classes)
    _describe(net, member, loaded=not fresh)
    return opened


def _describe(net: AlphaNet, member: FamilyMember, *, loaded: bool) -> None:
    """Completes the ``pretrained_cfg`` of a net that `create_model` made.

    Licence, origin and ``top1`` (in percent; published, or of a family that comes with weights measured) belong to
    weights, not to a name: a net has them where its weights descend from those, ``top1`` only while it has their
    classes.
    """
    cfg, shipped = net.pretrained_cfg, shipped_family_of(member)
    cfg["architecture"] = member.name
    if not loaded:
        cfg |= (
            {"input_size": PUBLISHED_CFG["imagenet"]["input_size"]}
            if shipped is None
            else {"crop_pct": shipped.crop_pct}
        )
        return
    known = cfg.get("top1") if shipped is not None else None
    if shipped is None and cfg.get("origin_url") == PUBLISHED_CFG[family_of(member)]["origin_url"]:
        known = member.top1
    cfg["top1"] = known if net.calibration != "training" and net.num_classes == member.num_classes else None


def _check_is(member: FamilyMember, net: AlphaNet, source: str) -> None:
    """Raises where ``net`` is not the model ``member``."""
    if net.supernet and net.space == member.space and net.contains(member.arch):
        raise AlphaNetError(
            f"{source} is a supernet, of which {member.name} is a slice that wants calibration: extract it with "
            f"load_net({source!r}).extract(arch) and calibrate it, or export it with alphanet-export --supernet"
        )
    if net.arch != member.arch or net.space != member.space:
        raise AlphaNetError(f"{source} holds {_described(net)}, not {member.name} ({member.arch})")


def _described(net: AlphaNet) -> str:
    """A net's name where it has one, and its arch."""
    members = (m for members in families().values() for m in members if (m.arch, m.space) == (net.arch, net.space))
    named = next((member.name for member in members), f"a net of the space {net.space.name}")
    return f"{named} ({net.arch})"
