"""Several models timed in turns in one process, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from alphanet_export.formats import format_of
from alphanet_export.onnx_model import IMAGE_NAME, open_session
from alphanet_export.runtimes.runtime import PHOTOGRAPH, open_runtime
from alphanet_export.verify.environment import physical_cores
from alphanet_export.verify.measure.latency import MOST_REPEATS, check_batch
from alphanet_zoo.errors import AlphaNetError, TargetError, UsageError
from alphanet_zoo.evaluate.statistics import DoubleArray, median_ratio_interval
from alphanet_zoo.files import sha256_of

WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Clock:
    """A clock to time runs with.

    Args:
        read: Returns the time in seconds.
        name: Its name.
        rest: Pause before each timed run, in seconds.
    """

    read: Callable[[], float]
    name: str
    rest: float = 0.0


CPU_TIME = Clock(time.process_time, "CPU time")
WALL_TIME = Clock(time.perf_counter, "wall time", rest=0.005)
"""The threads of PyTorch and ExecuTorch, and by default those of ONNX Runtime, spin for some milliseconds after a run.
They would take a core from the next model: two sessions that alternate on two cores would take twice their time."""


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float = 0.0,
    seed: int = 0,
    clock: Clock = WALL_TIME,
) -> dict[str, DoubleArray]:
    """Times every function once per round, in an order drawn for each round.

    Args:
        runs: Functions to time, by name.
        rounds: Minimum number of rounds.
        seconds: Minimum wall time to spend (10,000 rounds at most).
        seed: Seed of the order.
        clock: Clock to time with.

    Returns:
        Times in milliseconds, ``(rounds,)`` each; the n-th times of all functions belong to one round.
    """
    rng = np.random.default_rng(seed)
    for run in runs.values():
        for _ in range(WARM_UP_RUNS):
            run()
    names = sorted(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    begin, done = time.perf_counter(), 0
    while done < rounds or (time.perf_counter() - begin < seconds and done < MOST_REPEATS):
        for index in rng.permutation(len(names)):
            time.sleep(clock.rest)
            start = clock.read()
            runs[names[index]]()
            times[names[index]].append(1e3 * (clock.read() - start))
        done += 1
    return {name: np.asarray(values) for name, values in times.items()}


def clock_for(threads: int) -> Clock:
    """The clock for a number of threads.

    One thread is timed by the CPU time of the process, which other programs hardly affect. Several threads wait for one
    another, so they are timed by wall time.
    """
    return CPU_TIME if threads == 1 else WALL_TIME


@dataclass(frozen=True)
class TimingRatio:
    """Time of a file relative to another.

    Args:
        other: Name of the other file.
        other_sha256: Its SHA-256.
        ratio: Median time of the file over that of the other; below 1 the file is faster.
        ratio_interval: Its 95 % bootstrap interval over rounds.
        median_ms: Median time of the file.
        other_median_ms: Median time of the other.
        rounds: Number of rounds; each runs both once, in random order.
        threads: Threads within an operator, for both.
        batch: Images per run, for both.
        clock: Name of the clock: "CPU time" for one thread, else "wall time".
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
                f"it takes {self.ratio:.3f}x as long as {self.other} (95 % interval {low:.3f}x to {high:.3f}x), "
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
    """Times two files in their runtimes at full optimisation, each once per round in random order.

    Each file has its own threads; those of the file that waits sleep. One thread is timed by its CPU time.

    Args:
        model_path: The file, of any format that has a runtime here.
        other_path: The other file: the same, or any ONNX file with one image input ``(N, 3, H, W)`` and its weights
            inside.
        threads: Threads within an operator; None is the number of physical cores.
        batch: Images per run.
        rounds: Minimum number of rounds.
        seconds: Minimum time to spend.

    Raises:
        UsageError: The file does not exist, or a file does not accept the batch size.
        AlphaNetError: A file cannot be loaded or run.
    """
    threads = physical_cores() if threads is None else threads
    clock = clock_for(threads)
    with ExitStack() as stack:
        paths = {"a": model_path, "b": other_path}
        runs = {name: stack.enter_context(_runner(path, threads, batch)) for name, path in paths.items()}
        try:
            times = interleave(runs, rounds=rounds, seconds=seconds, clock=clock)
        except Exception as error:  # ONNX Runtime's errors derive from Exception directly.
            raise AlphaNetError(f"{model_path} and {other_path} cannot be run in turns: {error}") from error
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


@contextmanager
def _runner(path: str | os.PathLike[str], threads: int, batch: int) -> Iterator[Callable[[], object]]:
    """One run of a file on a batch of random pixels."""
    if format_of(path).name == "onnx":
        yield _onnx_runner(path, threads, batch)
        return
    with open_runtime(path, threads=threads) as runtime:
        check_batch(runtime.batch, batch, str(path))
        if runtime.input_size is None and not runtime.embedded:
            raise UsageError(f"{path} does not contain its input size, so it cannot be timed beside another file")
        yield partial(runtime.infer, runtime.example(batch))


def _onnx_runner(path: str | os.PathLike[str], threads: int, batch: int) -> Callable[[], object]:
    """One run of any ONNX file with one image input."""
    session = open_session(path, "all", threads, spin=True, sleep_between=True)
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) == 1 and inputs[0].name == IMAGE_NAME:
        check_batch(1, batch, str(path))
        photograph = np.random.default_rng(0).integers(0, 256, (1, *PHOTOGRAPH, 3), np.uint8)
        return partial(session.run, None, {IMAGE_NAME: photograph})
    if len(inputs) != 1 or len(shape) != 4 or not all(isinstance(side, int) for side in shape[1:]):
        raise UsageError(f"{path} takes {[(i.name, i.shape) for i in inputs]}; pass a file with one input (N, 3, H, W)")
    check_batch(shape[0] if isinstance(shape[0], int) else None, batch, str(path))
    if inputs[0].type != "tensor(float)":
        raise UsageError(f"{path} takes {inputs[0].type}; pass a file that takes float32 images")
    images = np.random.default_rng(0).standard_normal((batch, *shape[1:]), dtype=np.float32)
    return partial(session.run, None, {inputs[0].name: images})
