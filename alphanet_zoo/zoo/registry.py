"""Models by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, overload

import torch

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import FamilyMember
from alphanet_zoo.zoo.families import families, shipped_family_of
from alphanet_zoo.zoo.files import load_net
from alphanet_zoo.zoo.hub import from_pretrained
from alphanet_zoo.zoo.names import family_of, find_member
from alphanet_zoo.zoo.pins import PINS
from alphanet_zoo.zoo.shipped import load_member

HUB_ORG_VARIABLE = "ALPHANET_HUB_ORG"

_FILE_ENDINGS = (".safetensors", ".pt", ".pth", ".tar", ".ckpt", ".bin", ".onnx")

PUBLISHED_CFG: dict[str, dict[str, Any]] = {
    "imagenet": {
        "input_size": (3, 224, 224),
        "license": "cc-by-nc-4.0",
        "origin_url": "https://github.com/facebookresearch/AlphaNet",
    }
}
"""What the ``pretrained_cfg`` of weights that descend from a family's published ones says.

Source: docs/specification.md, section 4.
"""


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
    member = find_member(name)
    if out_indices is not None and not features_only:
        raise UsageError("out_indices goes with features_only=True")
    shipped = shipped_family_of(member) if weights is None and pretrained else None
    if weights is None and pretrained and shipped is None:
        weights = _published_repository(member.name)
    made_here = shipped is None and (weights is None or weights == "random")
    if revision is not None and (made_here or shipped is not None):
        raise UsageError(f"revision {revision!r} goes with weights on the Hub")
    with nullcontext() if made_here else torch.device("meta"):  # on meta it only checks the arguments
        net = AlphaNet(
            member.arch,
            member.space,
            member.num_classes if num_classes is None else num_classes,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
    if weights == "random":
        fill_live(net).eval()
    elif shipped is not None:
        net = load_member(shipped, member)
    elif weights is not None:
        net = _loaded(weights, cache_dir, revision)
        _check_is(member, net, os.fspath(weights))
    net.drop_rate, net.drop_path_rate = drop_rate, drop_path_rate
    if num_classes is not None and num_classes != net.num_classes:
        net.reset_classifier(num_classes)
    _describe(net, member, loaded=not made_here)
    return FeatureExtractor(net, out_indices) if features_only else net


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


def _published_repository(name: str) -> str:
    """The repository of a model's published weights."""
    organisation = os.environ.get(HUB_ORG_VARIABLE, "").strip()
    if organisation:
        return f"{organisation}/{name}"
    if name in PINS:
        return PINS[name].repository
    raise AlphaNetError(
        f"nobody has published the weights of {name} yet (no request was sent): alphanet-convert and alphanet-publish "
        "(to come) make them from the authors' checkpoint; --weights PATH (weights=PATH) uses a local file, "
        f"{HUB_ORG_VARIABLE} or weights='organisation/name' the Hub, "
        "and --weights random (weights='random') exists for timing"
    )


def _loaded(
    weights: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None, revision: str | None
) -> AlphaNet:
    """The net of a file, a folder or a repository."""
    path = Path(weights)
    names_local = not isinstance(weights, str) or path.is_absolute() or path.suffix.lower() in _FILE_ENDINGS
    if path.exists() or names_local:
        if revision is not None:
            raise UsageError(f"revision {revision!r} goes with weights on the Hub, and {path} is local")
        if not path.is_dir():
            return load_net(path)
    return from_pretrained(weights, cache_dir=cache_dir, revision=revision)


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
