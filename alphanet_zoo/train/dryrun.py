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
class DryRun:
    """What a dry run measured.

    Attributes:
        steps: Steps that were made; the first, which warms up, is not measured.
        step_seconds: Median time of a step, waiting for its batch included.
        data_seconds: Median time of a step that was spent waiting for its batch.
        images_per_second: Over all processes, at that speed.
        memory_bytes: Peak memory of this process.
        total_steps: Steps of the whole run.
        processes: Processes that shared the work.
    """

    steps: int
    step_seconds: float
    data_seconds: float
    images_per_second: float
    memory_bytes: int
    total_steps: int
    processes: int

    @property
    def total_seconds(self) -> float:
        """Time of the whole run without validation, at that speed."""
        return self.total_steps * self.step_seconds

    def __str__(self) -> str:
        """The figures as lines of text."""
        waiting = 100 * self.data_seconds / self.step_seconds
        return (
            f"{self.steps} steps, the first one left out; nothing was written\n"
            f"a step: {self.step_seconds:.3f} s, of which {waiting:.0f} % waiting for data\n"
            f"images a second: {self.images_per_second:.1f} over {self.processes} process(es)\n"
            f"peak memory of a process: {self.memory_bytes / 2**20:.0f} MiB\n"
            f"the whole run: {self.total_steps} steps, about {self.total_seconds / 3600:.2f} hours without validation"
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
        if not 2 <= steps <= run.end:
            raise ValueError(f"a dry run of {steps} steps: give 2 to {run.end}, the steps of the run")
        times, waits = [], []
        with closing(run.stream()) as batches:
            for _ in range(steps):
                began = time.perf_counter()
                batch = next(batches)
                waits.append(time.perf_counter() - began)
                run.advance(batch)
                times.append(time.perf_counter() - began)
        seconds = median(times[1:])
        figures = DryRun(
            steps, seconds, median(waits[1:]), config.data.batch_size / seconds, peak_memory(ranks.device), run.end,
            ranks.world_size,
        )  # fmt: skip
        return figures if ranks.first else None
