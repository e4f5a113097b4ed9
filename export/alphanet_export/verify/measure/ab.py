"""A file against another, timed in turns in one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from alphanet_export.onnx_model import load_proto, open_session
from alphanet_export.verify.environment import physical_cores
from alphanet_export.verify.measure.interleaved import clock_for, interleave
from alphanet_export.verify.measure.latency import check_batch
from alphanet_zoo.errors import AlphaNetError, TargetError, UsageError
from alphanet_zoo.evaluate.statistics import median_ratio_interval
from alphanet_zoo.files import sha256_of


@dataclass(frozen=True)
class TimingRatio:
    """How a file's time compares with another's.

    Args:
        other: Name of the other file.
        other_sha256: Its SHA-256.
        ratio: Median time of the file over that of the other: below 1 the file is faster.
        ratio_interval: Its 95 % bootstrap interval over rounds.
        median_ms: Median time of the file.
        other_median_ms: Median time of the other.
        rounds: How many rounds; each runs both once, in random order.
        threads: Threads within an operator, of both.
        batch: Images a run, of both.
        clock: What was timed with: "CPU time" of one thread, or "wall time".
    """

    other: str
    other_sha256: str
    ratio: float
    ratio_interval: tuple[float, float]
    median_ms: float
    other_median_ms: float
    rounds: int
    threads: int
    batch: int
    clock: str

    def check(self, max_ratio: float) -> TimingRatio:
        """Returns itself.

        Raises:
            TargetError: The ratio is above ``max_ratio``.
        """
        if self.ratio > max_ratio:
            low, high = self.ratio_interval
            raise TargetError(
                f"it takes {self.ratio:.3f} of the time of {self.other} (95 % interval {low:.3f} to {high:.3f}), "
                f"above the target of {max_ratio:g}; export it again, or raise --max-ratio"
            )
        return self


def measure_ratio(
    model_path: str | os.PathLike[str],
    other_path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    batch: int = 1,
    rounds: int = 50,
    seconds: float = 3.0,
) -> TimingRatio:
    """Times two files in ONNX Runtime at full optimisation, each once a round in random order.

    Both keep their own threads; those of the one that waits sleep. One thread is timed by its CPU time.

    Args:
        model_path: The file.
        other_path: Any ONNX file with one image input ``(N, 3, H, W)`` and its weights inside.
        threads: Threads within an operator; None is the physical cores.
        batch: Images a run.
        rounds: Rounds at least.
        seconds: Time to spend at least.

    Raises:
        UsageError: There is no such file, or one takes no such batch.
        AlphaNetError: A file cannot be loaded or run.
    """
    threads = physical_cores() if threads is None else threads
    load_proto(other_path)  # Refuses what is not one whole file.
    runs = {name: _runner(path, threads, batch) for name, path in (("a", model_path), ("b", other_path))}
    clock = clock_for(threads)
    try:
        times = interleave(runs, rounds=rounds, seconds=seconds, clock=clock)
    except Exception as error:  # ONNX Runtime's errors derive from Exception directly.
        raise AlphaNetError(f"ONNX Runtime cannot run {model_path} and {other_path}: {error}") from error
    median, other = float(np.median(times["a"])), float(np.median(times["b"]))
    return TimingRatio(
        other=Path(other_path).name,
        other_sha256=sha256_of(other_path),
        ratio=median / other,
        ratio_interval=median_ratio_interval(times["a"], times["b"]),
        median_ms=median,
        other_median_ms=other,
        rounds=len(times["a"]),
        threads=threads,
        batch=batch,
        clock=clock.name,
    )


def _runner(path: str | os.PathLike[str], threads: int, batch: int) -> Callable[[], object]:
    """One run of a file on a batch of made-up images."""
    session = open_session(path, "all", threads, spin=True, sleep_between=True)
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or not all(isinstance(side, int) for side in shape[1:]):
        raise UsageError(f"{path} takes {[(i.name, i.shape) for i in inputs]}; give a file with one input (N, 3, H, W)")
    check_batch(shape[0] if isinstance(shape[0], int) else None, batch, str(path))
    if inputs[0].type != "tensor(float)":
        raise UsageError(f"{path} takes {inputs[0].type}; give a file that takes float32 images")
    images = np.random.default_rng(0).standard_normal((batch, *shape[1:]), dtype=np.float32)
    return partial(session.run, None, {inputs[0].name: images})
