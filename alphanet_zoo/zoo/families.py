"""The model families: those whose archs are published, and one that comes with its weights, as data in a folder.

No torch here: names are known before weights are. Where the folder has no `FAMILY_FILE`, there is no such family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import FAMILIES, SPACES, FamilyMember

FOLDER = Path(__file__).with_name("weights")
"""Where the package keeps the family that comes with its weights."""

FAMILY_FILE = "family.json"
SUPERNET_FILE = "supernet.safetensors"
STATISTICS_FILE = "statistics.safetensors"


@dataclass(frozen=True)
class ShippedFamily:
    """A family that comes with its weights; `alphanet_zoo.zoo.shipped` reads and writes them.

    Attributes:
        name: Its name.
        folder: Where its files are.
        members: By ascending cost; their ``top1`` was measured on test images, with these weights.
        sha256: Digests of its files by their names.
        crop_pct: Share of an image that the evaluation shows.
        license: Of the weights.
        description: What they were trained and measured on.
        calibration: By member, what its statistics were averaged over.
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
    """The family in a folder, by default the package's; None where there is none.

    Raises:
        AlphaNetError: Its description cannot be read.
    """
    folder = FOLDER if folder is None else folder
    path = folder / FAMILY_FILE
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text("utf-8"))
        space, classes = SPACES[told["space"]], int(told["num_classes"])
        members = tuple(
            FamilyMember(entry["name"], ArchSpec.from_dict(entry["arch"]), space, float(entry["top1"]), classes)
            for entry in told["members"]
        )
        digests = {name: str(entry["sha256"]) for name, entry in told["files"].items()}
        calibration = {entry["name"]: entry["calibration"] for entry in told["members"]}
        crop_pct, license, description = float(told["crop_pct"]), str(told["license"]), str(told["description"])
        return ShippedFamily(str(told["family"]), folder, members, digests, crop_pct, license, description, calibration)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AlphaNetError(
            f"{path} is damaged ({type(error).__name__}: {error}); install the package again"
        ) from error


def families() -> dict[str, tuple[FamilyMember, ...]]:
    """Every family by its name."""
    shipped = shipped_family()
    return FAMILIES if shipped is None else FAMILIES | {shipped.name: shipped.members}


def shipped_family_of(member: FamilyMember) -> ShippedFamily | None:
    """The family of a member, where it is one that comes with its weights."""
    shipped = shipped_family()
    return shipped if shipped is not None and member in shipped.members else None
