"""Measures every distinct part of a space and some whole subnets, interleaved and repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from alphanet_export.latency.engines import PACKAGES, Engine, engine_of
from alphanet_export.verify.environment import current_environment
from alphanet_zoo.search.device import LatencyModel, Part, distinct_parts, fit_model, parts_of
from alphanet_zoo.space.shapes import net_shape
from alphanet_zoo.space.space import SearchSpace

FITTED, CHECKED = 20, 30
"""Random whole subnets that the corrections are fitted to, and others that the errors are measured on."""
WARM_UP = 2

Network = tuple[Part, ...]


def random_networks(space: SearchSpace, num_classes: int, count: int = FITTED + CHECKED) -> list[Network]:
    """Random whole subnets, the same on every call."""
    rng = np.random.Generator(np.random.PCG64(0))
    return [tuple(parts_of(net_shape(space, space.sample(rng)), num_classes)) for _ in range(count)]


def profile_device(
    space: SearchSpace,
    num_classes: int,
    runtime: str,
    threads: int,
    *,
    rounds: int = 8,
    runs: int = 10,
    progress: Callable[[], object] = bool,
) -> LatencyModel:
    """Measures the latency model of a space on this machine.

    In each round all parts and whole subnets are loaded and run in a new random order, so that a change of the
    machine's speed affects all of them alike. A time is the least of all runs.

    Args:
        space: The search space.
        num_classes: Classes of the classifier.
        runtime: A key of `alphanet_export.latency.engines.ENGINES`.
        threads: Threads within an operator.
        rounds: Number of rounds.
        runs: Timed runs of each part per round.
        progress: Called after each part of each round.

    Raises:
        UsageError: The runtime does not exist.
        MissingDependencyError: It is not installed.
    """
    parts: list[Network] = [(part,) for part in distinct_parts(space, num_classes)]
    networks = random_networks(space, num_classes)
    times = time_all(engine_of(runtime), [*parts, *networks], threads, rounds, runs, progress)
    device = {**asdict(current_environment()), "runtime": runtime, "runtime_version": version(PACKAGES[runtime]),
              "threads": threads, "rounds": rounds, "runs": runs}  # fmt: skip
    return model_of(device, space, num_classes, times)


def model_of(
    device: Mapping[str, Any], space: SearchSpace, num_classes: int, times: Mapping[Network, float]
) -> LatencyModel:
    """The latency model of times in milliseconds of all parts, and of `random_networks`."""
    networks = random_networks(space, num_classes)
    measured = {parts[0].key: ms for parts, ms in times.items() if len(parts) == 1}
    fitted, checked = ({net: times[net] for net in group} for group in (networks[:FITTED], networks[FITTED:]))
    return fit_model(device, space, num_classes, measured, fitted, checked)


def time_all(
    engine: Engine,
    networks: Sequence[Network],
    threads: int,
    rounds: int,
    runs: int,
    progress: Callable[[], object] = bool,
) -> dict[Network, float]:
    """Milliseconds of each network: the least time of all runs."""
    rng = np.random.Generator(np.random.PCG64(1))
    found: dict[Network, list[float]] = {net: [] for net in networks}
    for _ in range(rounds):
        for place in rng.permutation(len(networks)):
            net = networks[place]
            found[net].append(_least_ms(engine(net, threads), runs))
            progress()
    return {net: min(values) for net, values in found.items()}


def _least_ms(run: Callable[[], object], runs: int) -> float:
    """Least time of a run in milliseconds, after warm-up. Other programs on the machine only add to a time."""
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)
