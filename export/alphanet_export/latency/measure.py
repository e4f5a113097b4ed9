"""Measures models, and every distinct part of a space with some whole subnets, interleaved and repeated."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from alphanet_export.formats import FORMATS
from alphanet_export.latency.engines import PACKAGES, Engine, engine_of
from alphanet_export.verify.environment import current_environment
from alphanet_zoo.search.device import LatencyModel, Part, distinct_parts, fit_model, parts_of
from alphanet_zoo.space.presets import FamilyMember
from alphanet_zoo.space.shapes import net_shape
from alphanet_zoo.space.space import SearchSpace

FITTED, CHECKED = 20, 30
"""Random whole subnets that the corrections are fitted to, and others that the errors are measured on."""
WARM_UP = 2
MODEL_SECONDS = 1.0
"""Time to measure a model for, at least."""

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


def model_latency(
    member: FamilyMember,
    form: str = "onnx",
    *,
    threads: int | None = None,
    img_size: int | None = None,
    embed_preprocessing: bool = False,
) -> float:
    """Median latency of a member on this machine in milliseconds, for one image, in the runtime of a format.

    The weights are random: the time of a convolutional network does not depend on them.

    Args:
        member: The model.
        form: A key of `alphanet_export.formats.FORMATS` whose runtime is on this machine.
        threads: Threads within an operator. None: the physical cores that this process may use.
        img_size: See `alphanet_export.export.export`.
        embed_preprocessing: See `alphanet_export.export.export`.

    Raises:
        UsageError: The format does not support the options.
        AlphaNetError: The file cannot be written or run.
    """
    from alphanet_export.build import open_source
    from alphanet_export.export import export_source
    from alphanet_export.verify.measure.latency import measure_latency

    with tempfile.TemporaryDirectory(prefix="alphanet-latency-") as folder:
        path = FORMATS[form].path(Path(folder) / member.name)
        export_source(open_source("random", member.name), {form: path}, img_size=img_size,
                      embed_preprocessing=embed_preprocessing, verify=False)  # fmt: skip
        return measure_latency(path, threads=threads, seconds=MODEL_SECONDS).median_ms
