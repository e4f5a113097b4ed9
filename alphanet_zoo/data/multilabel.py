"""Images that have several labels each, named in a table beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from alphanet_zoo.data.decode import decode_file
from alphanet_zoo.data.image_folder import PathTable
from alphanet_zoo.errors import AlphaNetError, UsageError

_CELLS = {"0": 0, "1": 1}


class MultiLabelSource:
    """The images that a CSV table names; see `ImageSource`.

    The table's first row is ``image`` and the labels' names; every other row has an image's path below ``images`` and
    a 0 or 1 for each label. The columns' order is the classes' order.

    Args:
        images: The folder of the images.
        table: The CSV file.

    Raises:
        UsageError: The folder, the table or an image is missing, or the table is not as above; names the row.
        AlphaNetError: The table cannot be read.
    """

    def __init__(self, images: str | Path, table: str | Path) -> None:
        """Reads the table; no image yet."""
        folder, path = Path(images), Path(table)
        if not folder.is_dir():
            raise UsageError(f"no such folder: {folder}; give one with the images that {path} names")
        if not path.is_file():
            raise UsageError(f"no such file: {path}; give a table with the columns image and one a label, of 0 and 1")
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                self.classes, names, self.labels = _read(csv.reader(file), path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise AlphaNetError(f"cannot read {path}: {error}") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UsageError(
                f"{path} names {len(missing)} images that {folder} does not hold, such as {missing[0]}; add them, or "
                "take their rows out"
            )
        self.name, self.path = str(path), PathTable(folder / name for name in names)

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        return decode_file(self.path(index))


def _read(lines: Iterator[list[str]], path: Path) -> tuple[list[str], list[str], Tensor]:
    """Labels, images and ``(N, labels)`` 0 and 1 of a table."""
    first, *classes = next(lines, [""]) or [""]
    if first != "image" or not classes or len(set(classes)) < len(classes) or "" in classes:
        raise UsageError(f"{path}: its first line is no header; write image and the names of the labels, all different")
    names, rows = [], []
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        name, *cells = line
        if not name or len(cells) != len(classes) or not set(cells) <= set(_CELLS):
            raise UsageError(f"{path}, row {number}: give an image and a 0 or 1 for each of the {len(classes)} labels")
        names.append(name)
        rows.append(bytes(map(_CELLS.__getitem__, cells)))
    if not names:
        raise UsageError(f"{path} names no images; give a row an image")
    labels = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).reshape(len(rows), len(classes))
    if not labels.any():
        raise UsageError(f"{path} gives no image a label; write 1 where an image has one")
    return classes, names, labels
