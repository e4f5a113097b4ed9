"""A few steps of a run, to tell what all of it would take."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from statistics import median

from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import joined
from alphanet_zoo.train.meter import peak_memory
from alphanet_zoo.train.state import RunState


@dataclass(frozen=True)
class Phase:
    """What was measured at one largest resolution.

    Attributes:
        resolution: The largest resolution of a subnet; None if the run has no `sandwich.resolution_schedule`.
        steps: Steps that the run takes at it.
        step_seconds: Median time of a step, waiting for its batch included.
        data_seconds: Median time of a step that was spent waiting for its batch.
        images_per_second: Over all processes, at that speed.
    """

    resolution: int | None
    steps: int
    step_seconds: float
    data_seconds: float
    images_per_second: float

    def __str__(self) -> str:
        """The figures as one line of text."""
        waiting = 100 * self.data_seconds / self.step_seconds
        at = "" if self.resolution is None else f"up to {self.resolution} pixels ({self.steps} steps): "
        return (
            f"{at}{self.step_seconds:.3f} s per step, {waiting:.0f} % of it waiting for data; "
            f"{self.images_per_second:.1f} images per second"
        )


@dataclass(frozen=True)
class DryRun:
    """What a dry run measured.

    Attributes:
        steps: Steps taken per phase; the first one warms up and is not measured.
        phases: The figures of each phase of the run; a run without a resolution schedule has one.
        memory_bytes: Peak memory of this process.
        processes: Processes that share the work.
    """

    steps: int
    phases: tuple[Phase, ...]
    memory_bytes: int
    processes: int

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return sum(phase.steps for phase in self.phases)

    @property
    def total_seconds(self) -> float:
        """Time of the whole run without validation, at the measured speeds."""
        return sum(phase.steps * phase.step_seconds for phase in self.phases)

    def __str__(self) -> str:
        """The figures as lines of text."""
        timed = "" if len(self.phases) == 1 else " in each phase"
        return "\n".join(
            (
                f"{self.steps} steps{timed}, the first not timed; nothing was written",
                *map(str, self.phases),
                f"peak memory per process: {self.memory_bytes / 2**20:.0f} MiB ({self.processes} process(es))",
                f"whole run: {self.total_steps} steps, about {self.total_seconds / 3600:.2f} hours without validation",
            )
        )


def dry_run(config: TrainConfig, steps: int = 20) -> DryRun | None:
    """Makes the first steps of a run and throws them away; writes nothing into ``config.output``.

    Args:
        config: The run's.
        steps: How many; at least 2.

    Returns:
        The figures; None in processes but the first.

    Raises:
        ValueError: ``steps`` is less than 2 or the data gives fewer.
    """
    with joined(config.device, config.distributed) as ranks:
        run = RunState(config, ranks)
        phases, start = [], 0
        for end, resolution in run.phases:
            if not 2 <= steps <= end - start:
                raise ValueError(f"the dry run takes {steps} steps per phase; pass 2 to {end - start}")
            run.step = start
            phases.append(_timed(run, steps, end - start, resolution))
            start = end
        figures = DryRun(steps, tuple(phases), peak_memory(ranks.device), ranks.world_size)
        return figures if ranks.first else None


def _timed(run: RunState, steps: int, phase_steps: int, resolution: int | None) -> Phase:
    """Takes a few steps and times all but the first."""
    times, waits = [], []
    with closing(run.stream()) as batches:
        for _ in range(steps):
            began = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - began)
            run.advance(batch)
            times.append(time.perf_counter() - began)
    seconds = median(times[1:])
    return Phase(resolution, phase_steps, seconds, median(waits[1:]), run.config.data.batch_size / seconds)
