"""How fast a run goes and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class Meter:
    """Counts images, and the seconds that a run waited for them, between two readings.

    Args:
        device: Where the run computes.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts counting."""
        self._device = device
        self._restart()

    def _restart(self) -> None:
        """Begins the next reading."""
        self._began, self._waited, self._steps, self._images = time.perf_counter(), 0.0, 0, 0

    def waiting_for(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, while the time that each is waited for is counted."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield batch

    def count(self, images: int) -> None:
        """Notes a step over so many images."""
        self._steps, self._images = self._steps + 1, self._images + images

    def read(self) -> dict[str, float]:
        """Images and seconds since the last reading, as means; peak memory of this process so far, in MiB.

        ``data_seconds`` is the time a step waited for its batch.
        """
        steps = max(self._steps, 1)
        figures = {
            "images_per_second": self._images / (time.perf_counter() - self._began),
            "data_seconds": self._waited / steps,
            "memory_mib": peak_memory(self._device) / 2**20,
        }
        self._restart()
        return figures


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: tensors on a GPU, everything on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
