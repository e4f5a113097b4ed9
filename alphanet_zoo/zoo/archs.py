"""Finds an arch by name or in a file, for every command that takes one. Importing this module loads no torch."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.choices import FAMILY
from alphanet_zoo.slim.space import SlimSpace
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.family import Arch, Space
from alphanet_zoo.space.presets import SPACES, FamilyMember
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.names import did_you_mean, find_member, is_name

ENDS = ("smallest", "largest")
"""Names of two archs that every search space has."""

_ENTRY = re.compile(r"(.+)#(\d+)")
_NETWORKS = (".safetensors",)
_NUMBERS = ("macs", "params", "latency_ms", "score", "accuracy")
"""Entries of a front that are numbers."""
_LARGEST = 1e300
"""Numbers of a front are below this, so that they are finite as a float."""


@dataclass(frozen=True)
class NamedArch:
    """An arch and what its source says about it.

    Attributes:
        name: Name of the model, or the stem of the file.
        arch: The arch.
        space: Its search space; None if the source does not name one and no space of the package contains the arch.
        num_classes: Number of classes; None if the source does not name it.
        member: The model, if the source is the name of one.
    """

    name: str
    arch: Arch
    space: Space[Any] | None = None
    num_classes: int | None = None
    member: FamilyMember | None = None


def find_arch(source: str | os.PathLike[str], space: Space[Any] | None = None) -> NamedArch:
    """The arch that a name or a file identifies.

    Args:
        source: A model's name; ``smallest`` or ``largest``; a JSON file of an arch in the published form, of
            ``alphanet arch --json`` or ``config.json``; one entry of a Pareto front of ``alphanet search``, such as
            ``front.json#3`` (the third entry); or a static network: a ``.safetensors`` file, a folder of
            ``save_pretrained`` or a training run.
        space: The search space of the network that contains the arch; required for ``smallest`` and ``largest``.

    Raises:
        UsageError: The name, file or entry does not exist, or the file has several archs.
        AlphaNetError: The file cannot be read.
        ValueError: The file does not contain an arch.
    """
    check_arch_source(source)
    text = os.fspath(source)
    path, entry = _split(text)
    if text in ENDS and not path.exists():
        if space is None:
            raise UsageError(f"{text} is an arch of a search space; pass the network or the space that has it")
        return NamedArch(text, space.smallest if text == "smallest" else space.largest, space)
    if not path.exists():
        member = find_member(text)
        return NamedArch(member.name, member.arch, member.space, member.num_classes, member)
    if path.is_dir() or path.suffix.lower() in _NETWORKS:
        return _of_network(path)
    front = read_front(path)
    if front is None:
        if entry is not None:
            raise UsageError(f"{path} has one arch, not a Pareto front; remove #{entry}")
        return _of_mapping(path.stem, _read_json(path), path)
    if entry is None or not 1 <= entry <= len(front):
        raise UsageError(
            f"{path} is a Pareto front of {len(front)} archs; pass one of them, {path}#1 to {path}#{len(front)} "
            f"(alphanet arch {path} lists them), or the file of alphanet search --best"
        )
    return _of_mapping(f"{path.stem}-{entry}", front[entry - 1], path)


def check_arch_source(source: str | os.PathLike[str]) -> None:
    """Checks that ``source`` is the name of an arch or an existing path, without reading it.

    Raises:
        UsageError: It is neither.
    """
    text = os.fspath(source)
    path, _ = _split(text)
    if not text or not (text in ENDS or path.exists() or is_name(text)):
        raise UsageError(
            f"no such file or model: {text!r}{did_you_mean(text)}; pass a JSON file with an arch in the published "
            "form, or a model's name"
        )


def read_front(path: str | os.PathLike[str]) -> list[dict[str, Any]] | None:
    """The entries of a Pareto front that ``alphanet search`` wrote, as JSON or CSV; None if the file is not a front.

    Raises:
        AlphaNetError: The file cannot be read, or a cost or score in it is not a finite number.
    """
    if Path(path).suffix.lower() == ".csv":
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]
                return _checked_entries(rows, path)
        except (OSError, ValueError, TypeError, csv.Error, RecursionError) as error:
            raise AlphaNetError(f"cannot read the front in {path}: {error}; pass a file of alphanet search") from error
    content = _read_json(path)
    if isinstance(content, Mapping) and "front" in content:
        content = content["front"]
    if isinstance(content, list) and content and all(isinstance(each, dict) and "arch" in each for each in content):
        return _checked_entries(content, path)
    return None


def front_provenance(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What ``alphanet search`` recorded in a front about its supernet, images and settings; empty if it is unknown."""
    content = _read_json(path) if Path(path).suffix.lower() != ".csv" else None
    found = content.get("provenance") if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _checked_entries(front: list[dict[str, Any]], path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The entries of a front, whose costs and scores are finite numbers."""
    for number, entry in enumerate(front, 1):
        for name in _NUMBERS:
            value = entry.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
                raise AlphaNetError(
                    f"{path}: {name} of entry {number} is {value!r:.80}; pass a front that alphanet search wrote"
                )
    return front


def read_arch(spec: Mapping[str, Any]) -> Arch:
    """The arch of any family that ``to_dict`` of an arch describes.

    Raises:
        ValueError: ``spec`` does not describe an arch.
    """
    slimmable = isinstance(spec, Mapping) and set(spec) == {"resolution", "width", "depth"}
    return SlimArch.from_dict(spec) if slimmable else ArchSpec.from_dict(spec)


def read_space(spec: Mapping[str, Any]) -> Space[Any]:
    """The search space of any family that ``to_dict`` of a space describes.

    Raises:
        ValueError: ``spec`` does not describe a search space.
    """
    slimmable = isinstance(spec, Mapping) and spec.get("family") == FAMILY
    return SlimSpace.from_dict(spec) if slimmable else SearchSpace.from_dict(spec)


def space_of(arch: Arch) -> SearchSpace | None:
    """The search space of the package that contains an arch; None if there is none."""
    return next((space for space in SPACES.values() if arch in space), None)


def _split(text: str) -> tuple[Path, int | None]:
    """The file, and the number of the entry after ``#``."""
    found = _ENTRY.fullmatch(text)
    if found is None or Path(text).exists():
        return Path(text), None
    return Path(found[1]), int(found[2])


def _value(text: str) -> Any:
    """A cell of a CSV table: JSON, or Python's True and False."""
    return {"True": True, "False": False}[text] if text in ("True", "False") else json.loads(text)


def _read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AlphaNetError(f"cannot read the arch in {path}: {error}; pass JSON in the published form") from error


def _of_mapping(name: str, content: Any, path: Path) -> NamedArch:
    """The arch in a mapping: in the published form, or under the key ``arch``."""
    described = content if isinstance(content, Mapping) and "arch" in content else {"arch": content}
    arch = read_arch(described["arch"])
    space, classes = described.get("space"), described.get("num_classes")
    if isinstance(space, str):
        if space not in SPACES:
            raise UsageError(f"{path} names the unknown space {space!r}; choose from {', '.join(SPACES)}")
        space = SPACES[space]
    elif space is not None and not isinstance(space, Mapping):
        raise UsageError(f"{path}: its space is {space!r:.80}; pass a name or the choices of a search space")
    space = space_of(arch) if space is None else space
    return NamedArch(
        name, arch, read_space(space) if isinstance(space, Mapping) else space,
        classes if isinstance(classes, int) else None,
    )  # fmt: skip


def _of_network(path: Path) -> NamedArch:
    """The arch of a static network, whose weights are not read."""
    from alphanet_zoo.zoo.files import read_config, weights_file

    config = read_config(weights_file(path))
    if config.get("supernet"):
        raise UsageError(f"{path} is a supernet, which contains many archs; pass smallest, largest or a file with one")
    return _of_mapping(path.stem, config, path)
