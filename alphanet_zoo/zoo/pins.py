"""Which published weights a model's name stands for, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HubPin:
    """Weights that a name is tied to.

    Args:
        repository: Hub repository, ``organisation/name``.
        revision: Full commit hash.
        sha256: Digest of ``model.safetensors``, in hexadecimal.
    """

    repository: str
    revision: str
    sha256: str


PINS: dict[str, HubPin] = {}
"""Pins by model name. Empty: nobody has published the ImageNet weights yet."""


PUBLISHED_CFG: dict[str, dict[str, Any]] = {
    "imagenet": {
        "input_size": (3, 224, 224),
        "license": "cc-by-nc-4.0",
        "origin_url": "https://github.com/facebookresearch/AlphaNet",
    }
}
"""The ``pretrained_cfg`` entries of weights that descend from a family's published ones.

Source: docs/specification.md, section 4.
"""


def pin_of(repository: str, revision: str | None) -> HubPin | None:
    """The pin of a repository, where ``revision`` is None or the pinned one."""
    for pin in PINS.values():
        if pin.repository == repository and revision in (None, pin.revision):
            return pin
    return None
