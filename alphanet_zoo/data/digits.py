"""Scikit-learn's handwritten digits as folders of PNG files: real images that need no download."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from alphanet_zoo.errors import MissingDependencyError

SPLITS = {"train": 1197, "val": 300, "test": 300}
"""Number of images of each split; the classes are balanced to one image."""


def write_digits(root: str | Path) -> Path:
    """Writes 1,797 scans of digits as ``root/<train|val|test>/<0..9>/<number>.png``.

    The scans have 8 x 8 pixels of 17 grey levels. Each gets a blank border of one pixel, so that the usual centre crop
    of seven eighths loses nothing. The split is fixed and stratified. If ``root`` exists, nothing is done; otherwise
    the whole folder is written, or nothing.

    Args:
        root: The folder to create.

    Returns:
        ``root`` as a path.

    Raises:
        MissingDependencyError: scikit-learn is not installed.

    Source: scikit-learn's ``load_digits``, the test part of the UCI optical recognition of handwritten digits.
    """
    root = Path(root)
    if root.exists():
        return root
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "demo") from error
    digits = load_digits()
    scans = np.pad(np.round(digits.images * (255 / 16)).astype(np.uint8), ((0, 0), (1, 1), (1, 1)))
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        for split, members in split_indices(digits.target).items():
            for index in members:
                folder = temporary / split / str(digits.target[index])
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(scans[index]).save(folder / f"{index:04d}.png")
        temporary.chmod(0o755)
        os.rename(temporary, root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


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
