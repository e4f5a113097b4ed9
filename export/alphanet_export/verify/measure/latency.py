"""How long a model takes, with its spread."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np

from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME, open_session
from alphanet_export.verify.environment import physical_cores
from alphanet_zoo.errors import AlphaNetError, TargetError, UsageError
from alphanet_zoo.evaluate.statistics import DoubleArray, median_interval

WARM_UP_SECONDS = 0.3
MOST_REPEATS = 10_000
BINS = 30


@dataclass(frozen=True)
class Histogram:
    """How often a run took how long.

    Args:
        edges_ms: Edges of the bins, of equal width, one more than ``counts``.
        counts: Runs in each bin.
        slower: Runs beyond the last edge, which is the 99th percentile.
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
        cpu_share: Share of the threads' time, 0 to 1, that the system gave them. Waiting threads spin, so it is near 1
            on a quiet machine; well below, other programs had the cores, and times are too long.
        load_ms: Time to open the file and optimise its graph, once.
        repeats: Runs that were timed.
        batch: Images a run.
        threads: Threads within an operator.
        histogram: The spread.
    """

    median_ms: float
    median_interval_ms: tuple[float, float]
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    images_per_second: float
    cpu_share: float
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


def measure_latency(
    model_path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    batch: int = 1,
    repeats: int = 50,
    seconds: float = 3.0,
) -> Latency:
    """Times a model in ONNX Runtime on the CPU, at full optimisation.

    After a warm-up, runs one batch after the other until both ``repeats`` runs and ``seconds`` are over (10,000
    runs at most). Pixels are made up: the time of a convolutional network does not depend on them.

    Args:
        model_path: ONNX file with the input ``pixel_values`` and the output ``logits``.
        threads: Threads within an operator; by default the physical cores that this process may use.
        batch: Images a run.
        repeats: Runs to time at least.
        seconds: Time to spend at least.

    Raises:
        UsageError: The model takes no such batch, or a value is out of its domain.
        AlphaNetError: The file cannot be loaded or run.
    """
    threads = physical_cores() if threads is None else threads
    if threads < 1 or batch < 1 or repeats < 2 or not 0 <= seconds < float("inf"):
        raise UsageError(
            f"threads {threads}, batch {batch}, repeats {repeats}, seconds {seconds}: "
            "give at least 1 thread, a batch of 1, 2 repeats and 0 seconds"
        )
    start = time.perf_counter()
    session = open_session(model_path, "all", threads, spin=True)
    load = time.perf_counter() - start
    shape = session.get_inputs()[0].shape
    check_batch(shape[0] if isinstance(shape[0], int) else None, batch)
    feed = {INPUT_NAME: np.random.default_rng(0).standard_normal((batch, *shape[1:]), dtype=np.float32)}

    def run() -> float:
        begin = time.perf_counter()
        session.run([OUTPUT_NAME], feed)
        return time.perf_counter() - begin

    try:
        spent = run() + run()
        while spent < min(seconds, WARM_UP_SECONDS):
            spent += run()
        times: list[float] = []
        begin, busy = time.perf_counter(), time.process_time()
        while len(times) < repeats or (time.perf_counter() - begin < seconds and len(times) < MOST_REPEATS):
            times.append(run())
        share = (time.process_time() - busy) / (threads * (time.perf_counter() - begin))
    except Exception as error:  # ONNX Runtime's errors derive from Exception directly.
        raise AlphaNetError(f"ONNX Runtime cannot run {model_path}: {error}") from error
    return summarise(np.asarray(times) * 1e3, batch=batch, threads=threads, cpu_share=share, load_ms=load * 1e3)


def check_batch(fixed: int | None, batch: int, name: str = "the model") -> None:
    """Checks that a model called ``name`` with the batch size ``fixed`` (None: any) takes ``batch`` images.

    Raises:
        UsageError: It does not.
    """
    if fixed is not None and batch != fixed:
        raise UsageError(
            f"{name} takes batches of {fixed} alone, not {batch}; "
            f"export it with --dynamic-batch, or give --batch {fixed}"
        )


def summarise(times_ms: DoubleArray, *, batch: int, threads: int, cpu_share: float, load_ms: float) -> Latency:
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
        cpu_share=min(1.0, cpu_share),
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
