"""Which published weights a model's name stands for, as data."""

from __future__ import annotations

from dataclasses import dataclass


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


def pin_of(repository: str, revision: str | None) -> HubPin | None:
    """The pin of a repository, where ``revision`` is None or the pinned one."""
    for pin in PINS.values():
        if pin.repository == repository and revision in (None, pin.revision):
            return pin
    return None
