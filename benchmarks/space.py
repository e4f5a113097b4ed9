"""Speed of counting and sampling archs of the ImageNet space, on one core.

    python benchmarks/space.py

The process pins itself to one core. Times are CPU seconds of the process, so that other programs do not affect
them; each figure is the median of the repeats, with the slowest and the fastest in parentheses.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.sampling import count_within

LOW, HIGH = 440e6, 450e6


def cpu_seconds(action: Callable[[int], object], repeats: int) -> list[float]:
    """CPU seconds of ``action(i)`` for each repeat ``i``, in ascending order."""
    taken = []
    for i in range(repeats):
        start = time.process_time()
        action(i)
        taken.append(time.process_time() - start)
    return sorted(taken)


def print_rate(what: str, number: int, seconds: list[float]) -> None:
    """Prints the archs per second, if ``number`` archs took ``seconds`` in each repeat."""
    rates = [number / s for s in (median(seconds), seconds[-1], seconds[0])]
    print(f"{what:<52} {rates[0]:>12,.0f} archs/s  ({rates[1]:,.0f} to {rates[2]:,.0f})")


def print_time(what: str, seconds: list[float]) -> None:
    """Prints seconds in milliseconds."""
    times = [1e3 * s for s in (median(seconds), seconds[0], seconds[-1])]
    print(f"{what:<52} {times[0]:>12,.0f} ms       ({times[1]:,.0f} to {times[2]:,.0f})")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Archs of the ImageNet space counted and sampled per second, one core")
    parser.add_argument("--repeats", type=int, default=9, help="repeats per median (default: %(default)s)")
    repeats: int = parser.parse_args().repeats
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    rows = ALPHANET.sample_array(1_000_000, rng)

    # Shapes of counted archs are cached, so each repeat counts new ones.
    fresh = [[ALPHANET.sample(rng) for _ in range(500)] for _ in range(repeats)]
    print_rate(
        "count_macs, one ArchSpec at a time", 500, cpu_seconds(lambda i: [count_macs(a) for a in fresh[i]], repeats)
    )
    count_macs(rows[:1])
    print_rate("count_macs, array of 1,000,000", len(rows), cpu_seconds(lambda i: count_macs(rows), repeats))

    # Set-up is cached per number of classes and per window, so each repeat uses a new one.
    setup = cpu_seconds(lambda i: count_within(ALPHANET, LOW, HIGH, 1001 + i), repeats)
    print_time("set-up for the space (tables, halves, first window)", setup)
    inside = count_within(ALPHANET, LOW, HIGH)
    print_time("set-up for another window", cpu_seconds(lambda i: count_within(ALPHANET, LOW + i + 1, HIGH), repeats))

    ALPHANET.sample_within(LOW, HIGH, 1, rng)
    sampled = cpu_seconds(lambda i: ALPHANET.sample_within(LOW, HIGH, 100_000, rng), repeats)
    print_rate("sample_within 440 to 450 M, 100,000 ArchSpecs", 100_000, sampled)
    few = cpu_seconds(lambda i: ALPHANET.sample_within(LOW, HIGH, 100, rng), repeats)
    print_rate("sample_within 440 to 450 M, 100 ArchSpecs", 100, few)
    print(f"archs in the window: {inside:,} of {len(ALPHANET):,} ({inside / len(ALPHANET):.3%})")


if __name__ == "__main__":
    main()
