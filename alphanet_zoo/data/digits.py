"""Scikit-learn's handwritten digits, in memory or as folders of PNG files: real images that need no download."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from alphanet_zoo.errors import MissingDependencyError, UsageError

SPLITS = {"train": 1197, "val": 300, "test": 300}
"""Number of images of each split; the classes are balanced to one image."""


def load_scans() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The 1,797 scans ``(N, 10, 10)`` and the digit of each ``(N,)``.

    The scans have 8 x 8 pixels of 17 grey levels. Each gets a blank border of one pixel, so that the usual centre crop
    of seven eighths loses nothing.

    Raises:
        MissingDependencyError: scikit-learn is not installed.

    Source: scikit-learn's ``load_digits``, the test part of the UCI optical recognition of handwritten digits.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "demo") from error
    digits = load_digits()
    scans = np.pad(np.round(digits.images * (255 / 16)).astype(np.uint8), ((0, 0), (1, 1), (1, 1)))
    return scans, digits.target


def write_digits(root: str | Path) -> Path:
    """Writes the scans as ``root/<train|val|test>/<0..9>/<number>.png``.

    The split is fixed and stratified. If ``root`` exists, nothing is done; otherwise the whole folder is written, or
    nothing.

    Args:
        root: The folder to create.

    Returns:
        ``root`` as a path.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    root = Path(root)
    if root.exists():
        return root
    scans, labels = load_scans()
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        for split, members in split_indices(labels).items():
            for index in members:
                folder = temporary / split / str(labels[index])
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(scans[index]).save(folder / f"{index:04d}.png")
        temporary.chmod(0o755)
        with suppress(OSError):  # Another process may have been faster.
            os.rename(temporary, root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


class DigitsSource:
    """A split of the scans, in memory; the images, classes and order of the folder that `write_digits` writes.

    Args:
        split: 'train', 'val' or 'test'.

    Raises:
        UsageError: The split does not exist.
        MissingDependencyError: scikit-learn is not installed.
    """

    def __init__(self, split: str) -> None:
        """Reads the scans."""
        if split not in SPLITS:
            raise UsageError(f"the digits have no split {split!r}; pass one of {', '.join(SPLITS)}")
        scans, labels = load_scans()
        members = sorted(split_indices(labels)[split], key=lambda index: (labels[index], index))
        self.name, self.classes = f"the scanned digits ({split})", [str(digit) for digit in range(10)]
        self.labels = torch.from_numpy(labels[members])
        self._images = torch.from_numpy(scans[members])[:, None].repeat(1, 3, 1, 1)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def load(self, index: int) -> Tensor:
        """See `alphanet_zoo.data.sources.ImageSource`."""
        return self._images[index]


def split_indices(labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[str, list[int]]:
    """The fixed stratified split: the images of each class, in a shuffled order, are divided evenly.

    Args:
        labels: ``(N,)`` class of each image.

    Returns:
        Indices of each split, ascending.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    owners = np.concatenate([np.full(count, i) for i, count in enumerate(SPLITS.values())])
    positions = np.concatenate([(np.arange(count) + 0.5) / count for count in SPLITS.values()])
    dealt = owners[np.argsort(positions, kind="stable")][: len(labels)]
    return {name: sorted(map(int, by_class[dealt == i])) for i, name in enumerate(SPLITS)}
