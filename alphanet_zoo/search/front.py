"""The result of a search as files; `alphanet_zoo.zoo.fronts` reads them. Loads no torch."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphanet_zoo.files import replacing

VERSION = 1
"""Version of the format of ``front.json``."""


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
