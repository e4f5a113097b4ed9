"""Moves staged files to their places: all of them or none."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from alphanet_export.formats import FORMATS
from alphanet_zoo.files import replacing, replacing_folder

Move = tuple[Path, Path]
"""A staged file or folder, and its place."""


def moves_of(name: str, staged: Path, target: Path) -> list[Move]:
    """The files of one export in the format ``name``."""
    return list(zip(FORMATS[name].files(staged), FORMATS[name].files(target), strict=True))


def place(moves: Iterable[Move]) -> dict[Path, int]:
    """Copies every file beside its place, then renames all; returns the size in bytes of each file or folder.

    Raises:
        OSError: The disk is full or not writable; nothing has changed.
    """
    sizes = {}
    with ExitStack() as stack:
        for staged, target in moves:
            if staged.is_dir():
                shutil.copytree(staged, stack.enter_context(replacing_folder(target)), dirs_exist_ok=True)
                sizes[target] = sum(file.stat().st_size for file in staged.rglob("*") if file.is_file())
            else:
                shutil.copyfile(staged, stack.enter_context(replacing(target)))
                sizes[target] = staged.stat().st_size
    return sizes
