"""Chooses a network from a Pareto front of ``alphanet search``: from the list, a folder, or a Hub repository."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphanet_zoo.errors import AlphaNetError, TargetError, UsageError
from alphanet_zoo.files import FRONT_NAME
from alphanet_zoo.search.limits import cost_text
from alphanet_zoo.units import parse_count
from alphanet_zoo.zoo.archs import read_front

if TYPE_CHECKING:
    from alphanet_zoo.zoo.open import OpenedNet


def pick(front: Sequence[Mapping[str, Any]], budgets: Mapping[str, float], where: str) -> int:
    """The number (from 0) of the entry of a front with the best score within budgets; of equals the cheapest.

    Args:
        front: The entries.
        budgets: Greatest value of some of the costs, by name (`alphanet_zoo.search.limits.UNITS`).
        where: Name of the front in messages.

    Raises:
        UsageError: The entries do not have such a cost.
        TargetError: No entry is within the budgets.
    """
    for name in budgets:
        if not front or not all(name in entry for entry in front):
            remedy = "search with --device and --latency-ms" if name == "latency_ms" else "pass one of alphanet search"
            raise UsageError(f"the front {where} has no {name}; {remedy}")
    within = [i for i, entry in enumerate(front) if all(entry[name] <= budgets[name] for name in budgets)]
    if not within:
        least = " and ".join(cost_text(name, min(entry[name] for entry in front)) for name in budgets)
        asked = " and ".join(cost_text(name, value) for name, value in budgets.items())
        raise TargetError(f"no subnet of the front {where} costs {asked} or less; the cheapest costs {least}")
    return max(within, key=lambda i: (score_of(front[i]), -float(front[i].get("macs", 0))))


def score_of(entry: Mapping[str, Any]) -> float:
    """The score of an entry; fronts of older versions have only an accuracy."""
    return float(entry["score"] if "score" in entry else entry.get("accuracy", 0.0))


def open_from_front(
    source: str | os.PathLike[str],
    budgets: Mapping[str, float | str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> OpenedNet:
    """Opens the network of a published front with the best score within budgets.

    Args:
        source: A folder or a Hub repository with ``front.json`` and the weights of its subnets, as ``alphanet search
            --nets`` writes them.
        budgets: Greatest value of some of the costs, such as ``{"macs": "300M"}``.
        cache_dir: The Hub cache; None is the default of huggingface_hub.
        revision: Revision of the Hub repository; None is ``main``.

    Raises:
        UsageError: There is no front, or it was published without weights.
        TargetError: No subnet is within the budgets.
        AlphaNetError: A file cannot be read or downloaded.
    """
    from alphanet_zoo.zoo.open import open_net

    numbers = {name: parse_count(value) if isinstance(value, str) else float(value) for name, value in budgets.items()}
    path = _file(source, FRONT_NAME, cache_dir, revision)
    front = read_front(path)
    if front is None:
        raise AlphaNetError(f"{path} is not a front of alphanet search")
    chosen = front[pick(front, numbers, str(source))]
    name = chosen.get("weights")
    if not isinstance(name, str) or Path(name).name != name:
        raise UsageError(f"the front {source} has no weights; write them with alphanet search --nets, or export the "
                         f"subnet: alphanet export SUPERNET --front {path} --flops BUDGET")  # fmt: skip
    opened = open_net(_file(source, name, cache_dir, revision))
    if opened.net.arch.to_dict() != chosen["arch"]:
        raise AlphaNetError(f"{name} of {source} is not the subnet that the front describes; publish both again")
    return opened


def _file(
    source: str | os.PathLike[str], name: str, cache_dir: str | os.PathLike[str] | None, revision: str | None
) -> Path:
    """A file of a folder, or of a Hub repository, which is downloaded."""
    text = os.fspath(source)
    if Path(text).is_dir():
        if not (Path(text) / name).is_file():
            raise UsageError(f"{text} does not contain {name}; pass a folder of alphanet search --nets")
        return Path(text) / name
    from alphanet_zoo.zoo.hub import checked_repository
    from alphanet_zoo.zoo.hub_download import download

    repository = checked_repository(text)
    return download(repository, name, cache_dir=None if cache_dir is None else os.fspath(cache_dir), revision=revision)
