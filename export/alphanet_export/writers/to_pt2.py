"""Writes a frozen network as a PyTorch ExportedProgram."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from alphanet_export.freeze import FrozenNet


def write_program(frozen: FrozenNet, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a ``.pt2`` file, which ``torch.export.load`` reads.

    ``metadata`` is stored as extra files, one per entry (``extra_files`` of ``torch.export.load``).
    """
    torch.export.save(frozen.program, path, extra_files=dict(metadata or {}))
