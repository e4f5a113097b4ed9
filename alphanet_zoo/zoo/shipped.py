"""The weights of the family that is included in the package: a supernet in float16, and the statistics of each member.

A family is a folder with three files: `SUPERNET_FILE`, which `load_net` reads; `STATISTICS_FILE`, with tensors named
``<member>/<buffer>``; and `FAMILY_FILE`, written last, with the digests of both.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.files import replacing, sha256_of
from alphanet_zoo.nn.config import as_calibration
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.space.presets import SPACES, FamilyMember
from alphanet_zoo.tensor_file import read_content
from alphanet_zoo.zoo.families import FAMILY_FILE, STATISTICS_FILE, SUPERNET_FILE, ShippedFamily, shipped_family
from alphanet_zoo.zoo.files import check_tensors, net_file, net_of, save_net

SIZE_LIMIT = 16_000_000
"""Upper limit of the total size of a family's files, in bytes."""


def load_member(family: ShippedFamily, member: FamilyMember) -> AlphaNet:
    """The network of a member in eval mode: its subnet of the supernet, with its own statistics.

    Raises:
        AlphaNetError: A file is missing, or its SHA-256 is not that in `FAMILY_FILE`.
    """
    files = {}
    for name, digest in family.sha256.items():
        path = family.folder / name
        content = read_content(path) if path.is_file() else None
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            state = "is missing" if content is None else "has changed (its SHA-256 differs)"
            raise AlphaNetError(f"{path}, which {member.name} requires, {state}; reinstall the package")
        files[name] = net_file(path, content)
    net = cast(AlphaNet, net_of(files[SUPERNET_FILE])).extract(member.arch)
    source, prefix = family.folder / STATISTICS_FILE, f"{member.name}/"
    found = files[STATISTICS_FILE].tensors
    statistics = {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
    check_tensors(f"{source} for {member.name}", statistics, dict(net.named_buffers()))
    net.load_state_dict(statistics, strict=False)  # check_tensors has compared the names.
    net.calibration = as_calibration(family.calibration[member.name])
    net.pretrained_cfg |= {
        "architecture": member.name,
        "license": family.license,
    }
    net.top1 = member.top1
    return net


def write_family(
    folder: Path,
    name: str,
    supernet: AlphaNet,
    members: Mapping[str, AlphaNet],
    top1: Mapping[str, float],
    *,
    license: str,
    description: str,
) -> ShippedFamily:
    """Writes the three files of a family, after checking that they reproduce its members exactly.

    Args:
        folder: Output folder. A family in it is replaced when the new one is complete.
        name: Name of the family.
        supernet: A supernet of a space in `SPACES`. Its parameters are rounded to float16.
        members: Calibrated static networks by name, extracted from the rounded supernet.
        top1: Measured test top-1 of each member, in percent.
        license: License of the weights.
        description: Data that the weights were trained and measured on.

    Raises:
        ValueError: The supernet's space is not in `SPACES`, there are no members, or an accuracy is missing.
        AlphaNetError: The files do not reproduce a member exactly, or take `SIZE_LIMIT` bytes or more.
    """
    if SPACES.get(supernet.space.name) != supernet.space or not members or set(members) != set(top1):
        raise ValueError(f"{name}: pass a supernet of a space in SPACES, at least one member, and the top-1 of each")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as temporary_folder:
        draft = Path(temporary_folder)
        save_net(supernet, draft / SUPERNET_FILE, half=True)
        tensors = {f"{key}/{n}": b.cpu().contiguous() for key, net in members.items() for n, b in net.named_buffers()}
        save_file(tensors, draft / STATISTICS_FILE)
        paths = [draft / SUPERNET_FILE, draft / STATISTICS_FILE]
        content = {
            "family": name,
            "description": description,
            "license": license,
            "space": supernet.space.name,
            "num_classes": supernet.num_classes,
            "crop_pct": supernet.pretrained_cfg["crop_pct"],
            "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths},
            "members": sorted((_entry(key, members[key], top1[key]) for key in members), key=lambda e: e["macs"]),
        }
        (draft / FAMILY_FILE).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        _check(draft, members)
        (folder / FAMILY_FILE).unlink(missing_ok=True)
        for file in (SUPERNET_FILE, STATISTICS_FILE, FAMILY_FILE):
            with replacing(folder / file) as temporary:
                temporary.write_bytes((draft / file).read_bytes())
    written = shipped_family(folder)
    assert written is not None
    return written


def _entry(name: str, net: AlphaNet, top1: float) -> dict[str, Any]:
    """The entry of a member in `FAMILY_FILE`."""
    return {
        "name": name,
        "arch": net.arch.to_dict(),
        "macs": count_macs(net.arch, net.space, net.num_classes),
        "params": count_params(net.arch, net.space, net.num_classes),
        "top1": top1,
        "calibration": net.calibration,
    }


def _check(draft: Path, members: Mapping[str, AlphaNet]) -> None:
    """Raises if the files are too large or do not reproduce the members exactly."""
    size = sum(path.stat().st_size for path in draft.iterdir())
    if size >= SIZE_LIMIT:
        raise AlphaNetError(f"the files of the family take {size:,} bytes; the limit is {SIZE_LIMIT:,}")
    family = shipped_family(draft)
    assert family is not None
    for member in family.members:
        expected, found = members[member.name].state_dict(), load_member(family, member).state_dict()
        differing = [key for key, tensor in expected.items() if not torch.equal(tensor.cpu(), found[key])]
        if differing:
            raise AlphaNetError(
                f"{member.name} is not a calibrated subnet of the rounded supernet: {differing[0]} differs; extract it "
                "from the file of save_net(supernet, half=True)"
            )
