"""The memory allocator of a training process."""

from __future__ import annotations

import ctypes
import os


def keep_freed_memory() -> None:
    """Has glibc's allocator keep the memory that is freed, for all of this process.

    A training step frees and allocates the same large maps as the one before. By default glibc returns them to the
    system, which clears them again, and with `optim.kernels=compiled` that is a notable share of a step. Only the
    training command calls this. Other C libraries have no such setting and stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, most_mapped = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(most_mapped, 0)
