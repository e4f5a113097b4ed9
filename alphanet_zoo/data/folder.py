"""Images in folders: one folder per class, or a table with several labels per image.

What counts as an image file and as a class is decided here, for every reader of folders (`list_images`):

- Names that begin with a dot, and the folders that operating systems and file servers add (`SYSTEM_NAMES`), are
  skipped at any depth.
- A file is an image if its ending is in `alphanet_zoo.data.images.IMAGE_ENDINGS`, in upper or lower case.
- Links to files and folders are followed. A link to an image that does not exist counts as a broken image; any other
  link to nothing is an error, because it may have been a folder of images.
- Each folder in the root is a class. A class without images is an error.
- Images that lie beside the class folders, and images of formats that are not accepted, are left out with a warning.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alphanet_zoo.data.broken import warn_once
from alphanet_zoo.data.classes import shortened
from alphanet_zoo.data.images import IMAGE_ENDINGS, read_image
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import is_pattern, matching_paths, refuse_url

SYSTEM_NAMES = frozenset(("__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information"))
"""Folders that are never classes."""

_UNREADABLE = frozenset((".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".svg", ".ico", ".psd", ".dng", ".exr"))
"""Endings of images that are not accepted."""

_CELLS = {"0": 0, "1": 1}


def is_skipped(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to the system."""
    return name.startswith(".") or name in SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return _ending(name) in IMAGE_ENDINGS


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files below a folder, at any depth, in the order of their path components.

    Raises:
        UsageError: A link leads to nothing and may have been a folder, or links to folders form a loop.
        AlphaNetError: A folder cannot be read.
    """
    found: list[str] = []
    unreadable: list[str] = []
    _walk(os.fspath(folder), found, unreadable, ())
    dangling = [path for path in found if os.path.islink(path) and not os.path.exists(path)]
    if dangling:
        warn_once(f"{folder}: links to images that do not exist: {shortened(dangling)}")
    if unreadable:
        warn_once(
            f"{folder}: images left out because their format is not supported: {shortened(unreadable)}; convert them "
            "to JPEG or PNG"
        )
    return [Path(path) for path in found]


def find_images(source: str | os.PathLike[str]) -> list[Path]:
    """The images that a path names: the file itself, those of a folder (see `list_images`), or those of a pattern.

    Args:
        source: A file, a folder, or a pattern such as ``photos/**/*.jpg``. An existing file is not a pattern.

    Raises:
        UsageError: A folder contains no images, a pattern matches none, it is a URL, or as for `list_images`.
        AlphaNetError: A folder cannot be read.
    """
    text = os.fspath(source)
    refuse_url(text)
    if os.path.isdir(text):
        found, remedy = list_images(text), "contains no images; pass a folder with image files"
    elif os.path.lexists(text) or not is_pattern(text):
        return [Path(text)]
    else:
        paths = matching_paths(text)
        found = [image for path in paths for image in (list_images(path) if os.path.isdir(path) else [Path(path)])]
        remedy = "does not exist and matches no image; pass an image, a folder or a pattern"
    if not found:
        raise UsageError(f"{text!r} {remedy}")
    return found


def _walk(folder: str, found: list[str], unreadable: list[str], parents: tuple[tuple[int, int], ...]) -> None:
    """Collects the images below a folder; ``parents`` are the device and inode of the folders above it."""
    try:
        status = os.stat(folder)
        own = (status.st_dev, status.st_ino)
        if own in parents:
            raise UsageError(f"{folder} is a link to a folder above it; remove the link")
        for entry in _entries(folder):
            if entry.is_dir():
                _walk(entry.path, found, unreadable, (*parents, own))
            elif is_image_name(entry.name):
                found.append(entry.path)
            elif _ending(entry.name) in _UNREADABLE:
                unreadable.append(entry.path)
            else:
                _check_link(entry)
    except OSError as error:
        raise AlphaNetError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder and not skipped, in the order of the names."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not is_skipped(entry.name)), key=lambda entry: entry.name)


def _check_link(entry: os.DirEntry[str]) -> None:
    """Raises if an entry is a link to nothing."""
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise UsageError(
            f"{entry.path} is a link to {os.readlink(entry.path)}, which does not exist; mount or fetch what it leads "
            "to, or remove the link"
        )


def _ending(name: str) -> str:
    """The ending of a file's name, in lower case."""
    return os.path.splitext(name)[1].lower()


class FolderSource:
    """Images in one folder per class, at any depth below it; see `alphanet_zoo.data.sources.ImageSource`.

    Classes, and the files of each, are in the order of their names.

    Args:
        root: The folder that the class folders are in.

    Attributes:
        root: The folder.
        path: From an index to the path of the image.

    Raises:
        UsageError: There is no such folder, no images in it, or a class without images.
        AlphaNetError: A folder cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Lists the files; reads none."""
        self.root = Path(root)
        self.name = str(self.root)
        if not self.root.is_dir():
            missing = next(path for path in (*reversed(self.root.parents), self.root) if not path.is_dir())
            raise UsageError(f"no such folder: {missing}; pass a folder that has one folder of images per class")
        self.classes: list[str] = []
        paths: list[Path] = []
        labels: list[int] = []
        empty: list[str] = []
        for name in self._class_names():
            images = list_images(self.root / name)
            paths += images
            labels += [len(self.classes)] * len(images)
            self.classes.append(name)
            if not images:
                empty.append(name)
        if not paths:
            raise UsageError(f"{self.root} contains no images; pass a folder that has one folder of images per class")
        if empty:
            raise UsageError(
                f"{self.root} has class folders without images: {shortened(empty)}; add images or remove the folders"
            )
        self.labels = torch.tensor(labels)
        self.path = PathTable(paths)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        return read_image(self.path(index))

    def _class_names(self) -> list[str]:
        """The names of the folders in the root."""
        names, loose = [], []
        try:
            for entry in _entries(str(self.root)):
                if entry.is_dir():
                    names.append(entry.name)
                elif is_image_name(entry.name):
                    loose.append(entry.name)
                else:
                    _check_link(entry)
        except OSError as error:
            raise AlphaNetError(f"cannot read the folder {self.root}: {error.strerror or error}") from error
        if loose:
            if not names:
                raise UsageError(f"{self.root} contains images but no class folders; pass a folder that has one folder "
                                 "of images per class, such as the folder above this one")  # fmt: skip
            warn_once(f"{self.root}: images left out because they are not in a class folder: {shortened(loose)}")
        return names


class MultiLabelSource:
    """Images that can have several labels each; see `alphanet_zoo.data.sources.ImageSource`.

    The first row of the table is ``image`` and the names of the labels. Every other row has the path of an image below
    ``images``, and a 0 or 1 for each label. The order of the columns is the order of the classes.

    Args:
        images: The folder of the images.
        table: The CSV file.

    Raises:
        UsageError: The folder, the table or an image is missing, or the table is not as above; names the row.
        AlphaNetError: The table cannot be read.
    """

    def __init__(self, images: str | os.PathLike[str], table: str | os.PathLike[str]) -> None:
        """Reads the table, but no image."""
        folder, path = Path(images), Path(table)
        if not folder.is_dir():
            raise UsageError(f"no such folder: {folder}; pass one with the images that {path} names")
        if not path.is_file():
            raise UsageError(f"no such file: {path}; pass a table with a column image and one per label, of 0 and 1")
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                self.classes, names, self.labels = _read_table(csv.reader(file), path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise AlphaNetError(f"cannot read {path}: {error}") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UsageError(
                f"{path} names {len(missing)} images that are not in {folder}: {shortened(missing)}; add them, or "
                "remove their rows"
            )
        self.name, self.path = str(path), PathTable(folder / name for name in names)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        return read_image(self.path(index))


def _read_table(lines: Iterator[list[str]], path: Path) -> tuple[list[str], list[str], Tensor]:
    """Labels, images and ``(N, labels)`` uint8 0 and 1 of a table."""
    first, *classes = next(lines, [""]) or [""]
    if first != "image" or not classes or len(set(classes)) < len(classes) or "" in classes:
        raise UsageError(f"{path}: its first row is not a header; write image and the names of the labels, all unique")
    names, rows = [], []
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        name, *cells = line
        if not name or len(cells) != len(classes) or not set(cells) <= set(_CELLS):
            raise UsageError(f"{path}, row {number}: write an image and a 0 or 1 for each of the {len(classes)} labels")
        names.append(name)
        rows.append(bytes(map(_CELLS.__getitem__, cells)))
    if not names:
        raise UsageError(f"{path} names no images; write one row per image")
    labels = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).reshape(len(rows), len(classes))
    if not labels.any():
        raise UsageError(f"{path} has no 1 in any row; write 1 for each label that an image has")
    return classes, names, labels


class PathTable:
    """Paths as one array of bytes and their ends; a list of a million paths would be copied into every worker."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Packs the paths."""
        encoded = [os.fsencode(path) for path in paths]
        self._paths = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded])

    def __call__(self, index: int) -> Path:
        """One path."""
        start = int(self._ends[index - 1]) if index else 0
        return Path(os.fsdecode(self._paths[start : int(self._ends[index])].tobytes()))
