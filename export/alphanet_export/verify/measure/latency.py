"""Latency of a model with its spread, and throughput over batch sizes and threads."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alphanet_export.formats import format_of
from alphanet_export.runtimes.runtime import ImageArray, Runtime, open_runtime
from alphanet_export.verify.environment import physical_cores
from alphanet_zoo.errors import TargetError, UsageError
from alphanet_zoo.evaluate.statistics import DoubleArray, median_interval

WARM_UP_SECONDS = 0.3
MOST_REPEATS = 10_000
BINS = 30
BATCHES = (1, 4, 16)
"""Batch sizes of the throughput if a file accepts any."""
LEAST_RUNS = 3


@dataclass(frozen=True)
class Histogram:
    """Distribution of the times of single runs.

    Args:
        edges_ms: Edges of the bins, of equal width, one more than ``counts``.
        counts: Runs in each bin.
        slower: Runs slower than the last edge, which is the 99th percentile.
    """

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]
    slower: int


@dataclass(frozen=True)
class Latency:
    """Wall time of a run of one batch, in milliseconds, after warm-up.

    Args:
        median_ms: Half of the runs were faster.
        median_interval_ms: 95 % bootstrap interval of the median.
        p90_ms: 90 % of the runs were faster.
        p99_ms: 99 % of the runs were faster.
        mean_ms: The mean.
        min_ms: The fastest run.
        images_per_second: The batch over the median.
        cpu_share: CPU time of the process over the wall time of its threads, 0 to 1. Close to 1 on an idle machine,
            because waiting threads spin; if it is much lower, other programs used the cores and the times are too
            long. None if it does not show that: the idle threads of some runtimes sleep.
        load_ms: Time to open the file and optimise its graph.
        repeats: Number of timed runs.
        batch: Images per run.
        threads: Threads within an operator.
        histogram: Distribution of the times.
    """

    median_ms: float
    median_interval_ms: tuple[float, float]
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    images_per_second: float
    cpu_share: float | None
    load_ms: float
    repeats: int
    batch: int
    threads: int
    histogram: Histogram

    def check(self, max_median_ms: float) -> Latency:
        """Returns itself.

        Raises:
            TargetError: The median is above ``max_median_ms``.
        """
        if self.median_ms > max_median_ms:
            low, high = self.median_interval_ms
            raise TargetError(
                f"median latency {self.median_ms:.2f} ms (95 % interval {low:.2f} to {high:.2f}) is above the target "
                f"of {max_median_ms:g} ms; export a smaller model or use more threads"
            )
        return self


@dataclass(frozen=True)
class Throughput:
    """Throughput at one batch size and number of threads.

    Args:
        batch: Images per run.
        threads: Threads within an operator.
        images_per_second: The batch size over the median time of a run.
        runs: Number of timed runs.
    """

    batch: int
    threads: int
    images_per_second: float
    runs: int


def measure_latency(
    model_path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    batch: int = 1,
    repeats: int = 50,
    seconds: float = 3.0,
    size: int | None = None,
) -> Latency:
    """Times a model in its runtime on the CPU, at full optimisation.

    After a warm-up, runs one batch after the other until both ``repeats`` runs and ``seconds`` have passed (10,000
    runs at most). The pixels are random: the time of a convolutional network does not depend on them. A file that
    includes its preprocessing gets an image of `alphanet_export.runtimes.runtime.PHOTOGRAPH` pixels.

    Args:
        model_path: A file of any format that has a runtime here.
        threads: Threads within an operator; None is the number of physical cores that this process may use.
        batch: Images per run.
        repeats: Minimum number of timed runs.
        seconds: Minimum time to spend.
        size: Side of the input in pixels; None to take it from the file.

    Raises:
        UsageError: The model does not accept the batch size, or a value is out of its domain.
        AlphaNetError: The file cannot be loaded or run.
    """
    threads = physical_cores() if threads is None else threads
    if threads < 1 or batch < 1 or repeats < 2 or not 0 <= seconds < float("inf"):
        raise UsageError(
            f"threads {threads}, batch {batch}, repeats {repeats}, seconds {seconds}: "
            "pass at least 1 thread, a batch of 1, 2 repeats and 0 seconds"
        )
    start = time.perf_counter()
    with open_alone(model_path, threads) as runtime:
        load = time.perf_counter() - start
        check_batch(runtime.batch, batch)
        images = runtime.example(batch, size)
        spent = _timed(runtime, images) + _timed(runtime, images)
        while spent < min(seconds, WARM_UP_SECONDS):
            spent += _timed(runtime, images)
        times: list[float] = []
        begin, busy = time.perf_counter(), time.process_time()
        while len(times) < repeats or (time.perf_counter() - begin < seconds and len(times) < MOST_REPEATS):
            times.append(_timed(runtime, images))
        share = (time.process_time() - busy) / (threads * (time.perf_counter() - begin))
        spins = threads == 1 or runtime.name == "onnxruntime"
    return summarise(
        np.asarray(times) * 1e3, batch=batch, threads=threads, cpu_share=share if spins else None, load_ms=load * 1e3
    )


def measure_throughput(
    model_path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    threads: Sequence[int] | None = None,
    seconds: float = 0.5,
    size: int | None = None,
) -> tuple[Throughput, ...]:
    """Times a grid of batch sizes and threads, one after the other.

    Args:
        model_path: A file of any format that has a runtime here.
        batch: The only batch size that it accepts; None if it accepts any, for `BATCHES`.
        threads: Numbers of threads; None is `thread_counts`.
        seconds: Minimum time for each point (and three runs).
        size: Side of the input in pixels; None to take it from the file.

    Raises:
        UsageError: The file does not accept the batch size.
        AlphaNetError: The file cannot be loaded or run.
    """
    points = []
    for count in threads or thread_counts():
        with open_alone(model_path, count) as runtime:
            for number in BATCHES if batch is None else (batch,):
                check_batch(runtime.batch, number)
                images = runtime.example(number, size)
                times: list[float] = []
                runtime.infer(images)
                begin = time.perf_counter()
                while len(times) < LEAST_RUNS or time.perf_counter() - begin < seconds:
                    times.append(_timed(runtime, images))
                points.append(Throughput(number, count, number / float(np.median(times)), len(times)))
    return tuple(points)


def thread_counts(most: int | None = None) -> tuple[int, ...]:
    """1, 2, 4 ... and ``most``, by default the number of physical cores that this process may use."""
    most = physical_cores() if most is None else most
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return (*powers, most)


def open_alone(path: str | os.PathLike[str], threads: int) -> Runtime:
    """Opens a file to run it alone: ONNX Runtime's idle threads spin between runs, which is faster."""
    if format_of(path).name != "onnx":
        return open_runtime(path, threads=threads)
    from alphanet_export.runtimes.onnx_runtime import OnnxRuntime

    return OnnxRuntime(path, threads, sleep_between=False)


def _timed(runtime: Runtime, images: ImageArray) -> float:
    """Wall time of one run, in seconds."""
    begin = time.perf_counter()
    runtime.infer(images)
    return time.perf_counter() - begin


def check_batch(fixed: int | None, batch: int, name: str = "the model") -> None:
    """Checks that a model called ``name`` with the fixed batch size ``fixed`` (None: any) accepts ``batch`` images.

    Raises:
        UsageError: It does not.
    """
    if fixed is not None and batch != fixed:
        raise UsageError(
            f"{name} takes only batches of {fixed}, not {batch}; "
            f"export it with --dynamic-batch, or pass --batch {fixed}"
        )


def summarise(times_ms: DoubleArray, *, batch: int, threads: int, cpu_share: float | None, load_ms: float) -> Latency:
    """The figures of runs that took ``times_ms``, shape ``(repeats,)``."""
    median, p90, p99 = (float(v) for v in np.quantile(times_ms, (0.5, 0.9, 0.99)))
    counts, edges = np.histogram(times_ms, bins=BINS, range=(float(times_ms.min()), p99))
    return Latency(
        median_ms=median,
        median_interval_ms=median_interval(times_ms),
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(times_ms.mean()),
        min_ms=float(times_ms.min()),
        images_per_second=1e3 * batch / median,
        cpu_share=None if cpu_share is None else min(1.0, cpu_share),
        load_ms=load_ms,
        repeats=len(times_ms),
        batch=batch,
        threads=threads,
        histogram=Histogram(
            edges_ms=tuple(float(edge) for edge in edges),
            counts=tuple(int(count) for count in counts),
            slower=int((times_ms > edges[-1]).sum()),
        ),
    )
