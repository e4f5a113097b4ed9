"""Registers the models in timm: ``import alphanet_zoo.timm``, then create them through timm or transformers.

All models of `alphanet_zoo.list_models` are registered under their names, and any other AlphaNet as ``alphanet`` with
the arguments ``arch`` and ``space``. Networks are returned in training mode, as timm's are.

``pretrained=True`` loads the weights that `alphanet_zoo.create_model` loads, or those of the folder or Hub repository
in the name (``local-dir:PATH``, ``hf-hub:organisation/name``). The SHA-256 of weights that `save_pretrained` wrote is
checked. timm's loader reads files that timm wrote, and weights in ``pretrained_cfg_overlay``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, UsageError
from alphanet_zoo.nn.config import channel_cfg, default_cfg, restored_cfg
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET, SPACES, FamilyMember
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.families import families, shipped_family_of
from alphanet_zoo.zoo.hub import DIGEST_KEY
from alphanet_zoo.zoo.hub_config import GENERIC
from alphanet_zoo.zoo.hub_download import CONFIG_NAME
from alphanet_zoo.zoo.pins import PINS
from alphanet_zoo.zoo.registry import create_model, refuse_unknown

try:
    from timm.models import (
        PretrainedCfg,
        get_pretrained_cfg,
        is_model,
        load_pretrained,
        register_model,
        resolve_pretrained_cfg,
    )
except ImportError as error:
    raise MissingDependencyError("timm", "timm") from error

default_cfgs: dict[str, dict[str, Any]] = {}
"""The ``pretrained_cfg`` of each model, by name; timm's registry reads them here."""

_WEIGHTS = ("state_dict", "file", "url")
"""Entries of a ``pretrained_cfg`` that name weights which timm's loader reads."""

_FIXED = {
    *_WEIGHTS, "source", "custom_load", "architecture", "input_size", "pool_size", "num_classes", "first_conv",
    "classifier",
}  # fmt: skip
"""Entries of a ``pretrained_cfg`` that the network determines, or that only say where its weights are."""


def register() -> None:
    """Registers all models that timm does not have yet; called on import."""
    for members in families().values():
        for member in members:
            _register(member.name, _cfg_of(member))
    _register(GENERIC, {"num_classes": 1000, "first_conv": "conv_stem", "classifier": "classifier"})


def _register(name: str, cfg: dict[str, Any]) -> None:
    """Registers one model with its ``pretrained_cfg``."""
    if is_model(name):
        return

    def build(pretrained: bool = False, **arguments: Any) -> AlphaNet | FeatureExtractor:
        return _build(name, pretrained, **arguments)

    build.__module__, build.__name__, build.__qualname__ = __name__, name, name
    default_cfgs[name] = cfg
    register_model(build)


def _cfg_of(member: FamilyMember) -> dict[str, Any]:
    """Timm's description of a member: its preprocessing, and where its weights are if they exist."""
    cfg, shipped = default_cfg(member.arch, member.num_classes), shipped_family_of(member)
    if shipped is not None:
        cfg |= {"crop_pct": shipped.crop_pct, "license": shipped.license, "file": str(shipped.folder)}
    elif member.name in PINS:
        cfg["hf_hub_id"] = PINS[member.name].repository
    return cfg


def _build(
    name: str,
    pretrained: bool,
    *,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_model_args: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    feature_cls: str | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    global_pool: str | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    arch: Mapping[str, Any] | ArchSpec | None = None,
    space: str | Mapping[str, Any] | SearchSpace | None = None,
    supernet: bool = False,
    **unknown: Any,
) -> AlphaNet | FeatureExtractor:
    """Creates a registered model, with timm's arguments.

    Raises:
        UsageError: An argument is unknown, or requires another one.
        ValueError: A value is out of its domain.
        AlphaNetError: The weights do not exist, cannot be read, or are those of another network.
    """
    known = list(inspect.signature(_build).parameters)[1:-1]
    refuse_unknown(f"timm.create_model({name!r})", unknown, known)
    if supernet:
        raise UsageError("a supernet cannot be used in timm; extract a subnet, calibrate it and save that")
    if feature_cls not in (None, "getter"):
        raise UsageError(f"feature_cls is {feature_cls!r}; AlphaNet has its own feature extractor; remove the argument")
    if out_indices is not None and not features_only:
        raise UsageError("out_indices requires features_only=True")
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    if pretrained_cfg is not None and not isinstance(pretrained_cfg, str) and num_classes is None:
        num_classes = cfg.num_classes
    fresh = partial(_fresh, name, arch, space, 3 if in_chans is None else in_chans)
    net = _loaded(name, fresh, cfg, num_classes, cache_dir) if pretrained else fresh()
    net.adapt(num_classes, 3 if in_chans is None else in_chans, global_pool)
    net.drop_rate, net.drop_path_rate = drop_rate, drop_path_rate
    _describe(net, cfg, pretrained_cfg_overlay or {})
    net.train().to(device=device, dtype=dtype)
    return FeatureExtractor(net, out_indices).train() if features_only else net


def _fresh(name: str, arch: Mapping[str, Any] | ArchSpec | None, space: Any, in_chans: int) -> AlphaNet:
    """A newly initialised network."""
    if name != GENERIC:
        if arch is not None or space is not None:
            raise UsageError(f"{name} has an arch of its own; pass arch and space to the model {GENERIC!r}")
        return create_model(name, in_chans=in_chans)
    if arch is None:
        raise UsageError(f"the model {GENERIC!r} requires arch (a dict, or an ArchSpec), and its search space as space")
    if isinstance(space, str):
        if space not in SPACES:
            raise UsageError(f"unknown search space {space!r}; choose from {', '.join(SPACES)}, or pass a dict")
        space = SPACES[space]
    if isinstance(space, Mapping):
        space = SearchSpace.from_dict(space)
    arch = arch if isinstance(arch, ArchSpec) else ArchSpec.from_dict(arch)
    return AlphaNet(arch, space or ALPHANET, in_chans=in_chans)


def _loaded(
    name: str, fresh: Callable[[], AlphaNet], cfg: PretrainedCfg, num_classes: int | None, cache_dir: Any
) -> AlphaNet:
    """The network with the weights that a ``pretrained_cfg`` names; ``fresh`` creates a new one.

    Raises:
        AlphaNetError: There are none, they cannot be read, or they are those of another network.
    """
    own = get_pretrained_cfg(name)
    changed = {key for key in (*_WEIGHTS, "hf_hub_id") if getattr(cfg, key) not in (None, getattr(own, key))}
    if not changed:
        if name == GENERIC:
            raise AlphaNetError(f"the model {GENERIC!r} has no published weights; pass local-dir:PATH as the name")
        return create_model(name, True, cache_dir=cache_dir)
    source, revision = None, ""
    if cfg.source == "local-dir":
        source = cfg.file
    elif cfg.hf_hub_id is not None and (cfg.source == "hf-hub" or changed == {"hf_hub_id"}):
        source, _, revision = cfg.hf_hub_id.partition("@")
        if Path(source).is_dir():
            raise UsageError(f"there is a local folder {source!r}; pass local-dir:{source}, or rename the folder")
    if source is not None and DIGEST_KEY in _document(source, revision, cache_dir):
        net = AlphaNet.from_pretrained(source, revision=revision or None, cache_dir=cache_dir)
        with torch.device("meta"):
            named = fresh()
        if (net.arch, net.space, net.supernet) != (named.arch, named.space, False):
            raise AlphaNetError(f"{source} does not contain the network {name} that its {CONFIG_NAME} names")
        return net
    net = fresh()
    net.adapt(cfg.num_classes if num_classes is None else num_classes, net.in_chans)
    load_pretrained(net, _plain(cfg), num_classes=net.num_classes, in_chans=net.in_chans, cache_dir=cache_dir)
    return net


def _document(source: str, revision: str, cache_dir: Any) -> dict[str, Any]:
    """The ``config.json`` of a folder or Hub repository that timm has just read."""
    path = Path(source) / CONFIG_NAME
    if not path.is_file():
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(source, CONFIG_NAME, revision=revision or None, cache_dir=cache_dir))
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def _plain(cfg: PretrainedCfg) -> dict[str, Any]:
    """A ``pretrained_cfg`` as a dict, without empty entries and with tuples for lists."""
    return restored_cfg(cfg.to_dict())  # type: ignore[no-untyped-call]


def _describe(net: AlphaNet, cfg: PretrainedCfg, overlay: Mapping[str, Any]) -> None:
    """Adds timm's description to that of the network, which keeps what follows from its arch and classifier."""
    described = {key: value for key, value in _plain(cfg).items() if key not in _FIXED}
    if cfg.num_classes != net.num_classes:
        described.pop("label_names", None)
    net.pretrained_cfg |= described
    net.pretrained_cfg |= channel_cfg(net.pretrained_cfg, net.in_chans)
    net.pretrained_cfg |= {key: value for key, value in overlay.items() if key not in _WEIGHTS}


register()
