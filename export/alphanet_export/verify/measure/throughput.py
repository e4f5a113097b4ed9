"""Images a second over batch sizes and threads."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME, open_session
from alphanet_export.verify.environment import physical_cores
from alphanet_zoo.errors import AlphaNetError

BATCHES = (1, 4, 16)
"""Batch sizes to look at where a file takes any."""
LEAST_RUNS = 3


@dataclass(frozen=True)
class Throughput:
    """The rate of one batch size with one number of threads.

    Args:
        batch: Images a run.
        threads: Threads within an operator.
        images_per_second: The batch over the median time of a run.
        runs: Runs that were timed.
    """

    batch: int
    threads: int
    images_per_second: float
    runs: int


def thread_counts(most: int | None = None) -> tuple[int, ...]:
    """1, 2, 4 ... and ``most``, which is by default the physical cores that this process may use."""
    most = physical_cores() if most is None else most
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return (*powers, most)


def measure_throughput(
    model_path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    threads: Sequence[int] | None = None,
    seconds: float = 0.5,
) -> tuple[Throughput, ...]:
    """Times a grid of batch sizes and threads in ONNX Runtime, one after the other.

    Args:
        model_path: An ONNX file that ``alphanet-export`` wrote.
        batch: The one batch size that it takes; None where any will do, for `BATCHES`.
        threads: Numbers of threads; None is `thread_counts`.
        seconds: Time to spend on each point at least (and three runs).

    Raises:
        AlphaNetError: The file cannot be loaded or run.
    """
    batches = BATCHES if batch is None else (batch,)
    points = []
    for count in threads or thread_counts():
        session = open_session(model_path, "all", count, spin=True)
        shape = session.get_inputs()[0].shape[1:]
        for size in batches:
            images = np.random.default_rng(0).standard_normal((size, *shape), dtype=np.float32)
            times: list[float] = []
            try:
                session.run([OUTPUT_NAME], {INPUT_NAME: images})
                begin = time.perf_counter()
                while len(times) < LEAST_RUNS or time.perf_counter() - begin < seconds:
                    start = time.perf_counter()
                    session.run([OUTPUT_NAME], {INPUT_NAME: images})
                    times.append(time.perf_counter() - start)
            except Exception as error:  # ONNX Runtime's errors derive from Exception directly.
                raise AlphaNetError(f"ONNX Runtime cannot run {model_path} on {size} images: {error}") from error
            points.append(Throughput(size, count, size / float(np.median(times)), len(times)))
    return tuple(points)
