"""What an exported file says of itself."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Any

from alphanet_export.build import Source, tensors_sha256
from alphanet_export.freeze import FrozenNet
from alphanet_zoo import __version__
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.zoo.pins import PUBLISHED_CFG

PREFIX = "alphanet."
PUBLISHED_INPUT = 224
"""Side, in pixels, of the crop that the published accuracies were measured on."""


def describe(frozen: FrozenNet, source: Source) -> dict[str, str]:
    """The entries of ``metadata_props``: ``alphanet.<key>`` to JSON, the same for the same net and tools."""
    entries = facts(frozen, source)
    return {PREFIX + key: json.dumps(value, ensure_ascii=False, sort_keys=True) for key, value in entries.items()}


def facts(frozen: FrozenNet, source: Source) -> dict[str, Any]:
    """The same as plain values, by key without the prefix.

    ``macs`` is multiply-accumulates for one image and ``published_top1`` percent, on the published input only and
    for weights that are not made up.
    """
    net = frozen.net
    published = frozen.preprocessing.input_size == PUBLISHED_INPUT and source.weights != "random"
    return {
        "name": source.name,
        "arch": net.arch.to_dict(),
        "space": net.space.to_dict(),
        "num_classes": net.num_classes,
        "macs": count_macs(net.arch, net.space, net.num_classes),
        "params": count_params(net.arch, net.space, net.num_classes),
        "preprocessing": frozen.preprocessing.to_dict(),
        "labels": label_names(net),
        "weights": source.weights,
        "weights_sha256": source.weights_sha256 or tensors_sha256(source.net),
        "calibration": net.calibration,
        "published_top1": source.published_top1 if published else None,
        "tools": tool_versions(),
    }


def tool_versions() -> dict[str, str]:
    """Versions of what made the file."""
    tools = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}
    return {"alphanet_zoo": __version__, "python": platform.python_version(), **tools}


def label_names(net: AlphaNet) -> list[str] | None:
    """The names of the classes, or None if they are not known.

    They are the net's own, or ImageNet's if the classifier is that of the published weights. They are never derived
    from the number of classes.
    """
    own = net.pretrained_cfg.get("label_names")
    if own:
        return [str(label) for label in own]
    published = net.pretrained_cfg.get("origin_url") == PUBLISHED_CFG["imagenet"]["origin_url"]
    return imagenet_labels() if published and net.num_classes == 1000 and net.calibration != "training" else None


def imagenet_labels() -> list[str]:
    """The names of ImageNet's 1000 classes, as torchvision has them."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return list(_IMAGENET_CATEGORIES)
