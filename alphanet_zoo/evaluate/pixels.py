"""Keeps preprocessed images as bytes: in memory up to a limit, the rest in a temporary file."""

from __future__ import annotations

import tempfile
import weakref
from typing import IO

import numpy as np
import torch
from torch import Tensor

MEMORY = 2 * 2**30
"""Default limit of the images in memory, in bytes."""


class PixelStore:
    """Keeps batches of uint8 images; further networks read them instead of decoding the images again.

    Args:
        memory: Maximum size of the images in memory, in bytes. The others are in an unnamed file in the folder for
            temporary files (``TMPDIR``), which the system reads ahead and caches.

    Attributes:
        size: Bytes that are kept, in memory and in the file.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        """Keeps nothing."""
        self.size, self._memory = 0, memory
        self._file: IO[bytes] | None = None

    def kept(self, pixels: Tensor) -> Tensor:
        """Keeps ``(N, 3, S, S)`` uint8; returns a tensor with the same values, to be read only.

        Raises:
            OSError: The temporary file cannot be written, for example because the disk is full.
        """
        self.size += pixels.numel()
        if self.size <= self._memory:
            return pixels
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="alphanet-pixels-")
            weakref.finalize(self, self._file.close)
        offset = self._file.seek(0, 2)
        self._file.write(pixels.contiguous().numpy().tobytes())
        self._file.flush()
        mapped = np.memmap(self._file, np.uint8, "r+", offset, tuple(pixels.shape))
        return torch.from_numpy(mapped)
