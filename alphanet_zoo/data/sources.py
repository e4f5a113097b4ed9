"""Where images come from: a folder a class, CIFAR-10 as its authors pack it, or WebDataset shards.

A source gives any image by its index, so that a batch can be a function of the step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphanet_zoo.data.cifar import CifarSource
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.data.download import CIFAR_FOLDER, download_cifar
from alphanet_zoo.data.image_folder import FolderSource
from alphanet_zoo.data.preprocess import split_labels
from alphanet_zoo.errors import UsageError


class ImageSource(Protocol):
    """Images by index.

    Attributes:
        name: What errors call the whole.
        classes: Names of the classes.
        labels: ``(N,)`` int64 class of each image; ``(N, labels)`` uint8 of 0 and 1 where it may have several.
    """

    name: str
    classes: list[str]
    labels: Tensor

    def load(self, index: int) -> Tensor:
        """One decoded image, ``(3, H, W)`` uint8.

        Raises:
            AlphaNetError: It is broken; the message names it.
        """


class SourcePart:
    """Some images of a source.

    Args:
        source: The whole.
        chosen: ``(N,)`` indices of the images.
        name: What errors call the part.
    """

    def __init__(self, source: ImageSource, chosen: npt.NDArray[np.int64], name: str) -> None:
        """Reads no image."""
        self._source, self._chosen, self.name = source, chosen, name
        self.classes, self.labels = source.classes, source.labels[torch.from_numpy(chosen)]

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        return self._source.load(int(self._chosen[index]))


def open_source(config: DataConfig, split: str = "train") -> ImageSource:
    """The images of one split that the config names.

    Args:
        config: `source`, `root`, the names of the splits in it, `train` and `val`, and `hold_out`.
        split: 'train' or 'val'.

    Raises:
        UsageError: They are not there, or too few to hold any out.
        AlphaNetError: They are damaged.
        MissingDependencyError: webdataset, or scikit-learn for the digits, is not installed.
    """
    if not config.hold_out:
        return _open_whole(config, split)
    whole = _open_whole(config, "train")
    rest, held = split_labels(whole.labels.numpy(), config.hold_out, whole.name)
    if split == "train":
        return SourcePart(whole, rest, f"{whole.name} (without {len(held)} held out)")
    return SourcePart(whole, held, f"{whole.name} (the {len(held)} held out)")


def _open_whole(config: DataConfig, split: str) -> ImageSource:
    """As `open_source`, with nothing held out."""
    part = config.train if split == "train" else config.val
    root = Path(config.root)
    if config.source == "webdataset":
        from alphanet_zoo.data.shards import ShardSource

        return ShardSource(config.root, part, cache=config.cache)
    if config.source == "multilabel":
        from alphanet_zoo.data.multilabel import MultiLabelSource

        return MultiLabelSource(root / part, root / f"{part}.csv")
    if config.source == "digits":
        root = write_digits(config.root)
    if config.source == "cifar10":
        if root.name == CIFAR_FOLDER:
            root = root.parent
        if config.download and not (root / CIFAR_FOLDER).is_dir():
            download_cifar(root)
        if (root / CIFAR_FOLDER).is_dir():
            return CifarSource(root, split)
        if not (root / part).is_dir():
            raise UsageError(
                f"{root} holds neither {CIFAR_FOLDER} nor {part}/<class>/<image>; give data.download=true to fetch "
                "the former, or the folder that holds one of them as data.root"
            )
    return FolderSource(root / part)
