"""Every random draw of a run as a function of its purpose and counters: no generator's state is kept."""

from __future__ import annotations

import zlib

import numpy as np


def _sequence(seed: int, purpose: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    """The seed sequence of one draw; the CRC-32 of the purpose is part of it."""
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A fresh generator for one draw, such as ``generator(seed, "archs", step)``.

    Args:
        seed: The run's seed, from 0.
        purpose: What is drawn; different purposes have independent numbers.
        counters: Step, or epoch and sample index.
    """
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, counters)))


def torch_seed(seed: int, purpose: str, *counters: int) -> int:
    """A seed for `torch.manual_seed`, for draws that torch makes itself (initial weights, dropout).

    Args as `generator`.
    """
    return int(_sequence(seed, purpose, counters).generate_state(1, np.uint64)[0] >> np.uint64(1))
