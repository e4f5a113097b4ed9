"""Names of the models. This module does not import torch, so that a wrong name is reported quickly."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import FRONT_NAME
from alphanet_zoo.space.presets import ALIASES, FamilyMember
from alphanet_zoo.zoo.families import families, shipped_family_of
from alphanet_zoo.zoo.pins import PINS


def list_models(
    filter: str | Iterable[str] = "*",
    *,
    exclude_filters: str | Iterable[str] = (),
    family: str | None = None,
    pretrained: bool = False,
) -> list[str]:
    """Names of the models, without aliases, in ascending order of cost within a family.

    Args:
        filter: A pattern with wildcards, such as ``"*a5*"``, or several, of which a name must match one.
        exclude_filters: A pattern, or several: names that match one are left out.
        family: A family; None is all.
        pretrained: Only models whose weights are published or included in the package.

    Raises:
        UsageError: The family does not exist.
    """
    chosen = list(families()) if family is None else [family]
    members = [member for name in chosen for member in family_members(name)]
    if pretrained:
        members = [member for member in members if member.name in PINS or shipped_family_of(member) is not None]
    wanted, unwanted = ([each] if isinstance(each, str) else list(each) for each in (filter, exclude_filters))

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    names = (member.name for member in members)
    return [name for name in names if matches(name, wanted) and not matches(name, unwanted)]


def family_of(member: FamilyMember) -> str:
    """The name of a member's family."""
    return next(name for name, members in families().items() if member in members)


def family_members(family: str) -> tuple[FamilyMember, ...]:
    """The models of a family, in ascending order of cost.

    Raises:
        UsageError: The family does not exist.
    """
    known = families()
    if family not in known:
        raise UsageError(f"unknown family {family!r}; choose from {', '.join(known)}")
    return known[family]


def nearest_name(name: str) -> str | None:
    """The model name or alias that is most similar to ``name``; None if none is similar."""
    return next(iter(difflib.get_close_matches(str(name), [*list_models(), *ALIASES], n=1)), None)


def did_you_mean(name: str) -> str:
    """The part of a message that suggests the model name nearest to ``name``; empty if none is near."""
    near = nearest_name(name)
    return f" (did you mean {near}?)" if near else ""


def unknown_network(source: str) -> str:
    """The message about a source that is not a network."""
    return (
        f"{source!r} is neither a model's name{did_you_mean(source)} nor an existing file or folder; alphanet models "
        "lists the models, and a Hub repository is organisation/name"
    )


def resolve_name(name: str) -> str:
    """The name of a model in `list_models`: the target of an alias, or ``name`` itself.

    Raises:
        UsageError: The model does not exist; the message suggests the nearest name, if one is near.
    """
    names = list_models()
    if name in ALIASES:
        return ALIASES[name]
    if name not in names:
        if name and (Path(name) / FRONT_NAME).is_file():
            raise UsageError(
                f"{name} is a folder of alphanet search, not a model; pass macs, such as macs='300M', to choose from "
                "the front in it"
            )
        if name and Path(name).is_dir():
            raise UsageError(f"{name} is a folder, not a model; open the network in it with from_pretrained({name!r})")
        raise UsageError(f"unknown model {name!r}{did_you_mean(name)}; choose from {', '.join(names)}")
    return name


def is_name(name: str) -> bool:
    """Whether a text is the name or an alias of a model."""
    return name in ALIASES or name in list_models()


def find_member(name: str) -> FamilyMember:
    """The family member of a model's name or alias.

    Raises:
        UsageError: The model does not exist.
    """
    resolved = resolve_name(name)
    return next(member for members in families().values() for member in members if member.name == resolved)
