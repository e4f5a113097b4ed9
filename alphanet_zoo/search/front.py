"""The result of a search as files, and the choice of one arch from it. Loads no torch."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import TargetError, UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.search.costs import LATENCY, MACS, PARAMS, UNITS

VERSION = 1
"""Version of the format of ``front.json``."""
FRONT_NAME = "front.json"
"""Name of the front in the folder of a search, and beside the weights that are published with it."""


def write_front(
    path: str | os.PathLike[str], front: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any] | None = None
) -> None:
    """Writes the entries of a front to a file.

    Args:
        path: The file. If it ends in ``.csv``, a table with lists and mappings as JSON; otherwise JSON with the
            provenance.
        front: The entries; at least one.
        provenance: Supernet, images, settings and strategy of the search; None if they are unknown.
    """
    with replacing(path) as temporary:
        if Path(path).suffix != ".csv":
            content = {"version": VERSION, "provenance": dict(provenance or {}), "front": list(front)}
            temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
            return
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(front[0]))
            writer.writeheader()
            for entry in front:
                writer.writerow({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in entry.items()})


def write_arch(path: str | os.PathLike[str], arch: Mapping[str, Any]) -> None:
    """Writes an arch in the published form as JSON, as ``alphanet export --arch`` reads it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(arch, indent=1) + "\n", "utf-8")


def pick(front: Sequence[Mapping[str, Any]], budgets: Mapping[str, float], where: str) -> int:
    """The number (from 0) of the entry of a front with the best score within budgets; of equals the cheapest.

    Args:
        front: The entries.
        budgets: Greatest value of some costs: ``macs``, ``params``, ``latency_ms``.
        where: Name of the front in messages.

    Raises:
        UsageError: The entries do not have such a cost.
        TargetError: No entry is within the budgets.
    """
    for name in budgets:
        if not all(name in entry for entry in front):
            remedy = "search with --device and --latency-ms" if name == LATENCY else "pass a front of alphanet search"
            raise UsageError(f"the front {where} has no {name}; {remedy}")
    within = [i for i, entry in enumerate(front) if all(entry[name] <= budgets[name] for name in budgets)]
    if not within:
        least = ", ".join(f"{_text(name, min(entry[name] for entry in front))}" for name in budgets)
        asked = ", ".join(_text(name, value) for name, value in budgets.items())
        raise TargetError(f"no arch of the front {where} costs {asked} or less; the cheapest costs {least}")
    return max(within, key=lambda i: (score_of(front[i]), -float(front[i].get(MACS, 0))))


def score_of(entry: Mapping[str, Any]) -> float:
    """The score of an entry; fronts of older versions have only an accuracy."""
    return float(entry["score"] if "score" in entry else entry.get("accuracy", 0.0))


def _text(name: str, value: float) -> str:
    """A cost with its unit."""
    if name in (MACS, PARAMS):
        return f"{value / 1e6:.2f} M {UNITS[name]}"
    return f"{value:.2f} {UNITS[name]}"
