"""Where images come from: a folder a class, CIFAR-10 as its authors pack it, or WebDataset shards.

A source gives any image by its index, so that a batch can be a function of the step.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.train.config import DataConfig
from alphanet_zoo.train.decode import decode_file
from alphanet_zoo.train.digits import write_digits
from alphanet_zoo.train.download import CIFAR_FOLDER, download_cifar
from alphanet_zoo.zoo.preprocess import ImageFolder, split_labels


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


class PathTable:
    """Paths as one long string and its ends: a list of a million would be copied into every worker."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Packs the paths."""
        encoded = [str(path).encode("utf-8", "surrogateescape") for path in paths]
        self._paths = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded])

    def __call__(self, index: int) -> Path:
        """One path."""
        start = int(self._ends[index - 1]) if index else 0
        return Path(self._paths[start : int(self._ends[index])].tobytes().decode("utf-8", "surrogateescape"))


class FolderSource:
    """The images of an `ImageFolder`.

    Raises:
        UsageError: No such folder, or no image in it.
    """

    def __init__(self, root: str | Path) -> None:
        """Lists the files; reads none."""
        folder = ImageFolder(root)
        self.name, self.classes = str(folder.root), folder.classes
        self.labels = torch.tensor([label for _, label in folder.samples])
        self.path = PathTable(path for path, _ in folder.samples)

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        return decode_file(self.path(index))


class CifarSource:
    """CIFAR-10 in its authors' "Python version": what ``torchvision.datasets.CIFAR10(root, download=True)`` leaves.

    Those files are pickles; nothing but arrays is taken from them.

    Args:
        root: The folder that holds ``cifar-10-batches-py``.
        split: 'train' (50,000 images) or 'val' (the 10,000 of its test batch).

    Raises:
        UsageError: A file is missing.
        AlphaNetError: A file is not what it should be.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        """Reads all images of the split (150 MB at most)."""
        folder = Path(root) / CIFAR_FOLDER
        self.name = f"{folder} ({split})"
        names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        meta = _read_pickle(folder / "batches.meta")
        batches = [_read_pickle(folder / name) for name in names]
        try:
            self.classes = [_text(name) for name in _entry(meta, "label_names")]
            pixels = np.concatenate([np.asarray(_entry(batch, "data"), dtype=np.uint8) for batch in batches])
            self._images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32))
            self.labels = torch.tensor([int(label) for batch in batches for label in _entry(batch, "labels")])
        except (KeyError, TypeError, ValueError) as error:
            raise AlphaNetError(f"{folder} does not hold CIFAR-10: {error}; download it again") from error
        if len(self.labels) != len(self._images) or not 0 <= int(self.labels.max()) < len(self.classes):
            raise AlphaNetError(f"{folder} does not hold CIFAR-10: its labels do not fit; download it again")

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        return self._images[index]


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
        from alphanet_zoo.train.shards import ShardSource

        return ShardSource(config.root, part, cache=config.cache)
    if config.source == "multilabel":
        from alphanet_zoo.train.multilabel import MultiLabelSource

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


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and plain values; anything that could run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """The few callables that a pickled array names."""
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ):  # fmt: skip
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in an old pickle."""
    return text.encode("latin1" if encoding in ("latin1", "latin-1") else "ascii")


def _read_pickle(path: Path) -> dict[Any, Any]:
    """The mapping in one of CIFAR's files."""
    if not path.is_file():
        raise UsageError(f"no such file: {path}; download CIFAR-10 again")
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except Exception as error:
        raise AlphaNetError(f"cannot read {path}: {error}; download CIFAR-10 again") from error
    if not isinstance(content, dict):
        raise AlphaNetError(f"cannot read {path}: it holds no mapping; download CIFAR-10 again")
    return content


def _entry(mapping: dict[Any, Any], key: str) -> Any:
    """A value whose key may be bytes, as in the files of Python 2."""
    return mapping[key.encode()] if key.encode() in mapping else mapping[key]


def _text(value: bytes | str) -> str:
    """Text that may be bytes."""
    return value.decode() if isinstance(value, bytes) else value
