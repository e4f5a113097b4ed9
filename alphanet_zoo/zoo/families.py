"""The model families: those with published archs, and one whose weights are included in the package.

This module does not import torch, so that listing names is fast. If the folder has no `FAMILY_FILE`, no family is
included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import FAMILIES, SPACES, FamilyMember

FOLDER = Path(__file__).with_name("weights")
"""Folder in the package with the weights of the included family."""

FAMILY_FILE = "family.json"
SUPERNET_FILE = "supernet.safetensors"
STATISTICS_FILE = "statistics.safetensors"


@dataclass(frozen=True)
class ShippedFamily:
    """A family whose weights are included in the package; `alphanet_zoo.zoo.shipped` reads and writes them.

    Attributes:
        name: Name of the family.
        folder: Folder with its files.
        members: Members in ascending order of cost; their ``top1`` was measured on test images, with these weights.
        sha256: SHA-256 of each file, by name.
        crop_pct: Side of the centre crop of the evaluation, relative to the short side of the resized image.
        license: License of the weights.
        description: Data that the weights were trained and measured on.
        calibration: Calibration record of each member, by name.
    """

    name: str
    folder: Path
    members: tuple[FamilyMember, ...]
    sha256: Mapping[str, str]
    crop_pct: float
    license: str
    description: str
    calibration: Mapping[str, Any] = field(repr=False)


def shipped_family(folder: Path | None = None) -> ShippedFamily | None:
    """The family in a folder, by default that of the package; None if the folder has none.

    Raises:
        AlphaNetError: Its description cannot be read.
    """
    folder = FOLDER if folder is None else folder
    path = folder / FAMILY_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        space, classes = SPACES[content["space"]], int(content["num_classes"])
        members = tuple(
            FamilyMember(entry["name"], ArchSpec.from_dict(entry["arch"]), space, float(entry["top1"]), classes)
            for entry in content["members"]
        )
        digests = {name: str(entry["sha256"]) for name, entry in content["files"].items()}
        calibration = {entry["name"]: entry["calibration"] for entry in content["members"]}
        return ShippedFamily(
            name=str(content["family"]),
            folder=folder,
            members=members,
            sha256=digests,
            crop_pct=float(content["crop_pct"]),
            license=str(content["license"]),
            description=str(content["description"]),
            calibration=calibration,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AlphaNetError(f"{path} is damaged ({type(error).__name__}: {error}); reinstall the package") from error


def included_supernet(name: str | os.PathLike[str]) -> Path | None:
    """The file of the included family's supernet, whose name is that of the family and ``_supernet``; else None."""
    text = os.fspath(name)
    if not text.endswith("_supernet") or os.path.exists(text):  # Other sources do not depend on the family's files.
        return None
    family = shipped_family()
    return family.folder / SUPERNET_FILE if family is not None and text == f"{family.name}_supernet" else None


def families() -> dict[str, tuple[FamilyMember, ...]]:
    """All families, by name."""
    shipped = shipped_family()
    return FAMILIES if shipped is None else FAMILIES | {shipped.name: shipped.members}


def shipped_family_of(member: FamilyMember) -> ShippedFamily | None:
    """The included family that a member belongs to; None if its weights are not included in the package."""
    shipped = shipped_family()
    return shipped if shipped is not None and member in shipped.members else None
