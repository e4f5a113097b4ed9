"""The ``config.json`` of a saved network, which timm, transformers and this package read.

The keys of timm come first. What only this package needs is in the entry ``alphanet``. transformers recognises a model
of timm by ``pretrained_cfg``, if there is no ``model_type``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.slim.choices import FAMILY as SLIMMABLE
from alphanet_zoo.space.presets import IMAGENET_FAMILY

GENERIC = "alphanet"
"""timm's name for any AlphaNet; its arguments ``arch`` and ``space`` describe the network."""

OWN_KEY = "alphanet"


_LIBRARIES = ("timm/", "torchvision/")
"""Starts of the names of networks that a saved folder may choose; others name code."""


def to_document(net: Network) -> dict[str, Any]:
    """The content of ``config.json``, without the digest of the weights.

    Raises:
        ValueError: See `Network.config`; or a slimmable network is not one of timm or torchvision.
    """
    config = net.config()
    cfg = config.pop("pretrained_cfg")
    document: dict[str, Any] = {"num_classes": config.pop("num_classes"), "pretrained_cfg": cfg}
    if config["model_type"] == SLIMMABLE:
        _check_library(config)
        document["architecture"] = cfg["architecture"]
    else:
        own = cast(AlphaNet, net)
        document |= timm_name(own) | {"num_features": own.num_features, "global_pool": own.global_pool}
        config.pop("model_type")
    labels = cfg.pop("label_names")
    if labels:
        document["label_names"] = labels
    return document | {OWN_KEY: config}


def from_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """The config (see `Network.config`) in the content of ``config.json``.

    Raises:
        ValueError: The content is not that of `to_document`.
    """
    own, cfg = document.get(OWN_KEY), document.get("pretrained_cfg")
    if not isinstance(own, Mapping) or not isinstance(cfg, Mapping):
        raise ValueError(f"it has no {OWN_KEY!r} entry; write it with save_pretrained")
    if own.get("model_type") == SLIMMABLE:
        _check_library(own)
    elif own.get("model_type", "alphanet") != "alphanet":
        raise ValueError(f"its model_type is {own['model_type']!r}; install a newer version of alphanet-zoo")
    return {
        "model_type": "alphanet",
        **own,
        "num_classes": document.get("num_classes"),
        "pretrained_cfg": {**cfg, "label_names": document.get("label_names")},
    }


def names_code(config: Mapping[str, Any]) -> bool:
    """Whether the network of a config (see `Network.config`) is built by code that a download must not choose."""
    return config["model_type"] == SLIMMABLE and not str(config.get("network")).startswith(_LIBRARIES)


def _check_library(config: Mapping[str, Any]) -> None:
    """Raises ValueError if `names_code`."""
    if names_code(config):
        raise ValueError(
            f"its network {config.get('network')!r} names code, which a saved folder must not choose; save and open it "
            "as a .safetensors file (alphanet_zoo.zoo.files.save_net and load_net) if you trust the code"
        )


def timm_name(net: AlphaNet) -> dict[str, Any]:
    """The name and the arguments with which timm builds the network.

    The models of the ImageNet family have names of their own, because their archs never change.
    """
    arguments: dict[str, Any] = {}
    named = next((m.name for m in IMAGENET_FAMILY if (m.arch, m.space) == (net.arch, net.space)), None)
    if named is None or net.supernet:
        arguments |= {"arch": net.arch.to_dict(), "space": net.space.to_dict()}
    if net.supernet:
        arguments["supernet"] = True
    if net.in_chans != 3:
        arguments["in_chans"] = net.in_chans
    if net.global_pool != "avg":
        arguments["global_pool"] = net.global_pool
    name = GENERIC if named is None or net.supernet else named
    return {"architecture": name, "model_args": arguments} if arguments else {"architecture": name}
