"""Published weights by model name, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HubPin:
    """The weights of one model name.

    Args:
        repository: Hub repository, ``organisation/name``.
        revision: Full commit hash.
        sha256: SHA-256 of ``model.safetensors``, in hexadecimal.
    """

    repository: str
    revision: str
    sha256: str


PINS: dict[str, HubPin] = {}
"""Pins by model name. Empty: the ImageNet weights are not published yet."""


PUBLISHED_CFG: dict[str, dict[str, Any]] = {
    "imagenet": {
        "license": "cc-by-nc-4.0",
        "origin_url": "https://github.com/facebookresearch/AlphaNet",
    }
}
"""Entries of ``pretrained_cfg`` for weights that are derived from the published ones, by family.

Source: docs/specification.md, section 4.
"""


def pin_of(repository: str, revision: str | None) -> HubPin | None:
    """The pin of a repository if ``revision`` is None or the pinned one; else None."""
    for pin in PINS.values():
        if pin.repository == repository and revision in (None, pin.revision):
            return pin
    return None
