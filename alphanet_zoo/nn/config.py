"""Description of a net in plain values, stored with its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from alphanet_zoo.space.family import Arch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CalibrationRecord(TypedDict):
    """What batch norm's statistics were averaged over.

    ``digest`` is the SHA-256 of the batches as the network saw them, ``selection`` that of the decoded images in their
    order, and ``plan`` how they were chosen and prepared (`alphanet_zoo.evaluate.calibration.CalibrationPlan`). The
    last two are absent if `calibrate` was called with the caller's own batches.
    """

    images: int
    batches: int
    digest: str
    selection: NotRequired[str]
    plan: NotRequired[dict[str, Any]]


Calibration = Literal["checkpoint", "sliced", "training", "random"] | CalibrationRecord | None
"""Where running statistics come from: 'checkpoint' (the published checkpoint), 'sliced' (cut from a larger net's),
'training' (batch norms tracked them in training, of this net or of one whose tensors were loaded or averaged),
'random' (synthetic), a record of calibration, or None: they are not set."""

_NAMED_SOURCES = ("checkpoint", "sliced", "training", "random")
_TUPLES = ("input_size", "mean", "std", "label_names", "pool_size")


def as_calibration(value: Any) -> Calibration:
    """A calibration read from JSON.

    Raises:
        ValueError: ``value`` is not a calibration.
    """
    if value is None or value in _NAMED_SOURCES:
        result: Calibration = value
        return result
    required, optional = {"images", "batches", "digest"}, {"selection", "plan"}
    if isinstance(value, Mapping) and required <= set(value) <= required | optional:
        record = CalibrationRecord(images=int(value["images"]), batches=int(value["batches"]), digest=value["digest"])
        if "plan" in value:
            record |= {"selection": str(value.get("selection", "")), "plan": dict(value["plan"])}
        return record
    raise ValueError(f"calibration is {value!r}; pass null, a record or one of {', '.join(_NAMED_SOURCES)}")


def default_cfg(arch: Arch, num_classes: int) -> dict[str, Any]:
    """The ``pretrained_cfg`` of a network of ``arch`` without published weights, under timm's keys."""
    return {
        "architecture": "alphanet",
        "num_classes": num_classes,
        "input_size": (3, arch.resolution, arch.resolution),
        "fixed_input_size": False,
        "pool_size": None,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "label_names": None,
        "license": None,
        "origin_url": None,
        "hf_hub_id": None,
    }


def input_cfg(arch: Arch, in_chans: int, reduction: int) -> dict[str, Any]:
    """The part of a ``pretrained_cfg`` that the arch determines: images have the arch's resolution.

    Args:
        arch: The arch.
        in_chans: Channels of the images.
        reduction: Input pixels per pixel of the last map, along a side.
    """
    pooled = math.ceil(arch.resolution / reduction)
    return {"input_size": (in_chans, arch.resolution, arch.resolution), "pool_size": (pooled, pooled)}


def channel_cfg(cfg: Mapping[str, Any], in_chans: int) -> dict[str, Any]:
    """The ``mean`` and ``std`` of a ``pretrained_cfg`` for another number of channels: their average, for each one."""
    return {
        key: tuple(cfg[key]) if len(cfg[key]) == in_chans else (round(sum(cfg[key]) / len(cfg[key]), 6),) * in_chans
        for key in ("mean", "std")
    }


def plain_cfg(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A ``pretrained_cfg`` ready for JSON: lists for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in cfg.items()}


def restored_cfg(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `plain_cfg`.

    Raises:
        ValueError: An entry that is a list in JSON is something else.
    """
    for key in _TUPLES:
        if not isinstance(cfg.get(key), list | tuple | None):
            raise ValueError(f"{key} of pretrained_cfg is {cfg[key]!r:.80}; it must be a list or null")
    return {key: tuple(v) if key in _TUPLES and isinstance(v, list) else v for key, v in cfg.items()}
