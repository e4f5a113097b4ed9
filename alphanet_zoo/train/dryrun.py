"""A few steps of a run, to estimate time and memory of the whole run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from statistics import median

from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import joined
from alphanet_zoo.train.prepare import prepare
from alphanet_zoo.train.runlog import peak_memory
from alphanet_zoo.train.state import RunState
from alphanet_zoo.units import duration


@dataclass(frozen=True)
class Phase:
    """Measurements of one phase of the resolution schedule.

    Attributes:
        resolution: Largest resolution of a subnet; None if the run has no `sandwich.resolution_schedule`.
        steps: Steps of the run in this phase.
        step_seconds: Median time of a step, including the time spent waiting for data.
        data_seconds: Median time of a step spent waiting for data.
        images_per_second: Images per second over all processes.
    """

    resolution: int | None
    steps: int
    step_seconds: float
    data_seconds: float
    images_per_second: float

    def __str__(self) -> str:
        """The measurements as one line of text."""
        waiting = 100 * self.data_seconds / self.step_seconds
        at = "" if self.resolution is None else f"up to {self.resolution} pixels ({self.steps} steps): "
        return (
            f"{at}{self.step_seconds:.3f} s per step, {waiting:.0f} % of it waiting for data; "
            f"{self.images_per_second:.1f} images per second"
        )


@dataclass(frozen=True)
class DryRun:
    """Measurements of a dry run.

    Attributes:
        steps: Steps per phase; the first is a warm-up and not measured.
        phases: Measurements of each phase; a run without a resolution schedule has one phase.
        memory_bytes: Peak memory of this process; None on Windows without a GPU.
        processes: Number of processes.
        output: Output folder of the run, which was not written to.
        notes: Choices that `alphanet_zoo.train.prepare.prepare` made.
    """

    steps: int
    phases: tuple[Phase, ...]
    memory_bytes: int | None
    processes: int
    output: str
    notes: tuple[str, ...] = ()

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return sum(phase.steps for phase in self.phases)

    @property
    def total_seconds(self) -> float:
        """Estimated time of the whole run without validation."""
        return sum(phase.steps * phase.step_seconds for phase in self.phases)

    def __str__(self) -> str:
        """The measurements as lines of text."""
        timed = "" if len(self.phases) == 1 else " in each phase"
        processes = f"{self.processes} process{'' if self.processes == 1 else 'es'}"
        memory = "unknown" if self.memory_bytes is None else f"{self.memory_bytes / 2**20:.0f} MiB"
        return "\n".join(
            (
                *self.notes,
                f"{self.steps} steps{timed}, the first not timed; nothing was written to {self.output}",
                *map(str, self.phases),
                f"peak memory per process: {memory} ({processes})",
                f"whole run: {self.total_steps} steps, about {duration(self.total_seconds)} without validation",
            )
        )


def dry_run(config: TrainConfig, steps: int = 20) -> DryRun | None:
    """Runs the first steps of every phase and discards them; writes nothing into ``config.output``.

    Args:
        config: The config of the run.
        steps: Steps per phase, at least 2.

    Returns:
        The measurements; None in all processes but the first.

    Raises:
        ValueError: ``steps`` is less than 2 or more than a phase has.
    """
    with joined(config.device, config.distributed) as ranks:
        notes: list[str] = []
        config = ranks.from_first(partial(prepare, config, notes.append))
        run = RunState(config, ranks)
        phases, start = [], 0
        for end, resolution in run.phases:
            if not 2 <= steps <= end - start:
                raise ValueError(f"the dry run takes {steps} steps per phase; pass 2 to {end - start}")
            run.step = start
            phases.append(_timed(run, steps, end - start, resolution))
            start = end
        figures = DryRun(steps, tuple(phases), peak_memory(ranks.device), ranks.world_size, config.output, tuple(notes))
        return figures if ranks.first else None


def _timed(run: RunState, steps: int, phase_steps: int, resolution: int | None) -> Phase:
    """Runs a few steps and measures all but the first."""
    times, waits = [], []
    with run.stream() as batches:
        for _ in range(steps):
            began = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - began)
            run.advance(batch)
            times.append(time.perf_counter() - began)
    seconds = median(times[1:])
    return Phase(resolution, phase_steps, seconds, median(waits[1:]), run.config.data.batch_size / seconds)
