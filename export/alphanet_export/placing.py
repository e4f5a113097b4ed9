"""Moves exported files from a temporary folder to their final paths: all of them or none."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from alphanet_export.formats import FORMATS
from alphanet_zoo.files import replacing, replacing_folder

Move = tuple[Path, Path]
"""The path of a temporary file or folder, and the path it is moved to."""


def moves_of(name: str, staged: Path, target: Path) -> list[Move]:
    """The moves of all files of the format ``name``, which is a key of `FORMATS`."""
    return list(zip(FORMATS[name].files(staged), FORMATS[name].files(target), strict=True))


def place(moves: Iterable[Move]) -> dict[Path, int]:
    """Copies every file to its disk before any replaces its target.

    Returns:
        The size of each file in bytes; of a folder, the sum over its files.

    Raises:
        UsageError: A target exists and is not a regular file (or folder).
        OSError: The disk is full or not writable; its ``filename`` is the target. No target has changed.
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
