"""The ``config.json`` of a saved network, which timm, transformers and this package read.

The keys of timm come first. What only this package needs is in the entry ``alphanet``. transformers recognises a model
of timm by ``pretrained_cfg``, if there is no ``model_type``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import IMAGENET_FAMILY

GENERIC = "alphanet"
"""timm's name for any AlphaNet; its arguments ``arch`` and ``space`` describe the network."""

OWN_KEY = "alphanet"


def to_document(net: AlphaNet) -> dict[str, Any]:
    """The content of ``config.json``, without the digest of the weights.

    Raises:
        ValueError: See `AlphaNet.config`.
    """
    config = net.config()
    document = {
        **timm_name(net),
        "num_classes": config.pop("num_classes"),
        "num_features": net.num_features,
        "global_pool": net.global_pool,
        "pretrained_cfg": config.pop("pretrained_cfg"),
    }
    labels = document["pretrained_cfg"].pop("label_names")
    if labels:
        document["label_names"] = labels
    config.pop("model_type")
    return document | {OWN_KEY: config}


def from_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """The config (see `AlphaNet.config`) in the content of ``config.json``.

    Raises:
        ValueError: The content is not that of `to_document`.
    """
    own, cfg = document.get(OWN_KEY), document.get("pretrained_cfg")
    if not isinstance(own, Mapping) or not isinstance(cfg, Mapping):
        raise ValueError(f"it has no {OWN_KEY!r} entry; write it with save_pretrained")
    if own.get("model_type", "alphanet") != "alphanet":  # Others name code, which a download must not choose.
        raise ValueError(f"its model_type is {own['model_type']!r}; open the .safetensors file if you trust it")
    return {
        "model_type": "alphanet",
        **own,
        "num_classes": document.get("num_classes"),
        "pretrained_cfg": {**cfg, "label_names": document.get("label_names")},
    }


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
