"""Where images come from: one interface for folders, CIFAR-10, WebDataset shards, digits and multi-label tables.

A source returns any image by its index, so that a batch can be a function of the step.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.digits import SPLITS, DigitsSource
from alphanet_zoo.data.folder import FolderSource, MultiLabelSource
from alphanet_zoo.data.images import read_file, read_header
from alphanet_zoo.errors import AlphaNetError, UsageError

CIFAR_FOLDER = "cifar-10-batches-py"


class ImageSource(Protocol):
    """Images by index.

    Attributes:
        name: Name of the source in messages.
        classes: Names of the classes.
        labels: ``(N,)`` int64 class of each image; ``(N, labels)`` uint8 of 0 and 1 if it can have several.
    """

    name: str
    classes: list[str]
    labels: Tensor

    def __len__(self) -> int:
        """The number of images, N."""

    def load(self, index: int) -> Tensor:
        """One decoded image, ``(3, H, W)`` uint8.

        Raises:
            AlphaNetError: It cannot be decoded; the message names it.
        """


class _Subset:
    """Some images of a source; see `subset`."""

    def __init__(self, source: ImageSource, indices: npt.NDArray[np.int64], name: str) -> None:
        """Reads no image."""
        self._source, self._indices, self.name = source, indices, name
        self.classes, self.labels = source.classes, source.labels[torch.from_numpy(indices)]

    def __len__(self) -> int:
        """The number of images."""
        return len(self._indices)

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        return self._source.load(int(self._indices[index]))

    def parent(self, index: int) -> tuple[ImageSource, int]:
        """The source that an image comes from, and its index there."""
        return self._source, int(self._indices[index])


def subset(source: ImageSource, indices: Sequence[int] | npt.NDArray[np.int64], name: str | None = None) -> ImageSource:
    """Some images of a source, in the order of ``indices``; it has the same classes.

    Args:
        source: All images.
        indices: Which of them, ``(M,)``.
        name: Name of the part in messages; None is the source's.
    """
    return _Subset(source, np.asarray(indices, dtype=np.int64), source.name if name is None else name)


def image_side(source: ImageSource, index: int) -> int | None:
    """The short side of an image in pixels, from its file's header if the source has files; None if it is broken."""
    while isinstance(source, _Subset):
        source, index = source.parent(index)
    try:
        if isinstance(source, FolderSource | MultiLabelSource):
            path = source.path(index)
            header = read_header(read_file(path), str(path))
            return min(header.width, header.height)
        return min(source.load(index).shape[1:])
    except AlphaNetError:
        return None


def spread(source: ImageSource, limit: int | None) -> ImageSource:
    """At most ``limit`` images, spread evenly over a source, so that all classes are seen; None is all.

    Raises:
        ValueError: ``limit`` is not positive.
    """
    indices = spread_indices(len(source), limit)
    return source if len(indices) == len(source) else subset(source, indices)


def spread_indices(images: int, limit: int | None) -> npt.NDArray[np.int64]:
    """The indices that `spread` selects of ``images`` images, ascending.

    Raises:
        ValueError: ``limit`` is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the limit is {limit} images; pass 1 or more, or None for all")
    if limit is None or limit >= images:
        return np.arange(images)
    return np.arange(limit) * images // limit


def split_hold_out(source: ImageSource, images: int) -> tuple[ImageSource, ImageSource]:
    """A fixed random choice of images, the same for every run and class-balanced to one image, and the rest.

    Args:
        source: All training images, of one class each.
        images: Number of images to hold out, from 1 to N - 1.

    Returns:
        The rest, and the images that are held out, both in the order of the source.

    Raises:
        UsageError: There are not more images than that.
    """
    if not 0 < images < len(source):
        raise UsageError(
            f"{source.name} has {len(source)} images, and {images} are to be held out; hold out at least 1, and fewer "
            "than all"
        )
    labels = source.labels.numpy()
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = by_class[np.arange(images) * len(labels) // images]
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return (
        subset(source, rest, f"{source.name} (without the {images} images held out)"),
        subset(source, np.sort(chosen), f"{source.name} (the {images} images held out)"),
    )


class Cifar10Source:
    """CIFAR-10 as torchvision reads it: MD5 digests are checked before anything is unpickled.

    Args:
        root: The folder that has ``cifar-10-batches-py`` in it.
        split: 'train' (50,000 images) or 'val' (the 10,000 of the test batch).

    Raises:
        AlphaNetError: The files are not those of CIFAR-10.
    """

    def __init__(self, root: str | os.PathLike[str], split: str) -> None:
        """Reads all images of the split (154 MB at most)."""
        from torchvision.datasets import CIFAR10

        self.name = f"{Path(root) / CIFAR_FOLDER} ({split})"
        try:
            files = CIFAR10(root, train=split == "train")
        except (RuntimeError, OSError) as error:
            raise AlphaNetError(
                f"cannot read CIFAR-10 in {Path(root) / CIFAR_FOLDER}: {error}. Remove that folder and pass "
                "data.download=true, or copy it again"
            ) from error
        self.classes = [str(name) for name in files.classes]
        self.labels = torch.tensor(files.targets)
        self._images = torch.from_numpy(np.ascontiguousarray(files.data.transpose(0, 3, 1, 2)))

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        return self._images[index]


def download_cifar10(root: Path) -> None:
    """Downloads CIFAR-10 (170 MB) and puts ``cifar-10-batches-py`` into ``root``, whole or not at all.

    Args:
        root: The folder; it is created if it does not exist.

    Raises:
        AlphaNetError: It cannot be downloaded, its digest is wrong, or it cannot be written.
    """
    from torchvision.datasets import CIFAR10

    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".cifar-10.", dir=root))
        try:
            CIFAR10(temporary, download=True)
            if not (root / CIFAR_FOLDER).exists():  # Another machine may have been faster.
                (temporary / CIFAR_FOLDER).rename(root / CIFAR_FOLDER)
        finally:
            shutil.rmtree(temporary)
    except (OSError, RuntimeError) as error:
        raise AlphaNetError(
            f"cannot download CIFAR-10 from {CIFAR10.url}: {error}; copy its {CIFAR_FOLDER} into {root} instead"
        ) from error


def open_source(config: DataConfig, split: str = "train") -> ImageSource:
    """The images of one split that the config names.

    Args:
        config: `source`, `root`, the names of the splits in it, `train` and `val`, and `hold_out`.
        split: 'train' or 'val'.

    Raises:
        UsageError: The images do not exist, or are too few to hold any out.
        AlphaNetError: The files are damaged.
        MissingDependencyError: webdataset, or scikit-learn for the digits, is not installed.
    """
    if not config.hold_out:
        return _open_whole(config, split)
    rest, held_out = split_hold_out(_open_whole(config, "train"), config.hold_out)
    return rest if split == "train" else held_out


def _open_whole(config: DataConfig, split: str) -> ImageSource:
    """As `open_source`, with no images held out."""
    part = config.train if split == "train" else config.val
    if config.source == "digits":
        return DigitsSource(part) if config.root is None else _digits_folder(Path(config.root), part)
    assert config.root is not None
    root = Path(config.root)
    if config.source == "webdataset":
        from alphanet_zoo.data.shards import ShardSource

        return ShardSource(config.root, part, cache=config.cache)
    if config.source == "multilabel":
        return MultiLabelSource(root / part, root / f"{part}.csv")
    if config.source == "cifar10":
        if root.name == CIFAR_FOLDER:
            root = root.parent
        if config.download and not (root / CIFAR_FOLDER).is_dir():
            download_cifar10(root)
        if (root / CIFAR_FOLDER).is_dir():
            return Cifar10Source(root, split)
        if not (root / part).is_dir():
            raise UsageError(
                f"{root} has neither {CIFAR_FOLDER} nor {part}/<class>/<image>; pass data.download=true to download "
                "the former, or the folder that has one of them as data.root"
            )
    return FolderSource(root / part)


def _digits_folder(root: Path, part: str) -> FolderSource:
    """A split of a folder that `alphanet_zoo.data.digits.write_digits` wrote.

    Raises:
        UsageError: The folder does not exist or has other images.
    """
    own = (
        "To train on your own images, use the recipe own_images or add data.source=folder; to train on the digits, "
        "remove data.root."
    )
    if not (root / part).is_dir():
        raise UsageError(f"data.source is digits, and no such folder: {root / part}. {own}")
    source = FolderSource(root / part)
    if source.classes != [str(digit) for digit in range(10)] or len(source) != SPLITS.get(part):
        raise UsageError(f"data.source is digits, but {root} contains other images. {own}")
    return source
