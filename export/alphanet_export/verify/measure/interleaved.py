"""Several things timed in turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from alphanet_export.verify.measure.latency import MOST_REPEATS
from alphanet_zoo.evaluate.statistics import DoubleArray

WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Clock:
    """What runs are timed with.

    Args:
        read: The time now, in seconds.
        name: What it is called.
        rest: How long nothing runs before a run is timed, in seconds.
    """

    read: Callable[[], float]
    name: str
    rest: float = 0.0


CPU_TIME = Clock(time.process_time, "CPU time")
WALL_TIME = Clock(time.perf_counter, "wall time", rest=0.005)
"""Threads wait actively for some milliseconds after a run (PyTorch's, ExecuTorch's; ONNX Runtime's unless told not to),
and would take a core from what runs next: two sessions that alternate on two cores then take twice their time."""


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float = 0.0,
    seed: int = 0,
    clock: Clock = WALL_TIME,
) -> dict[str, DoubleArray]:
    """Times each thing once a round, in an order drawn anew each round.

    Args:
        runs: What to time, by name.
        rounds: How many rounds at least.
        seconds: How long to go on at least, in wall time (10,000 rounds at most).
        seed: Of the order.
        clock: What to time with.

    Returns:
        Times in milliseconds, ``(rounds,)`` each: the n-th of all are of one round.
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
    """What to time runs of so many threads with.

    One thread is timed by the CPU time that the process takes, which other programs hardly change. More threads wait
    for one another, so only wall time tells.
    """
    return CPU_TIME if threads == 1 else WALL_TIME
