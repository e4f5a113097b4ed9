"""Images in one folder a class, decoded one by one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alphanet_zoo.data.decode import decode_file
from alphanet_zoo.data.preprocess import ImageFolder


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
