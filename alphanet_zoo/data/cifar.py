"""CIFAR-10 as its authors publish it, read without running what its pickles name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphanet_zoo.data.download import CIFAR_FOLDER
from alphanet_zoo.errors import AlphaNetError, UsageError


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
