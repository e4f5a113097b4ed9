"""The training loop: runs a config to its end, with checkpoints, rollbacks, validation and clean stops on signals."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alphanet_zoo.checkpoint import (
    Checkpoint,
    discard_after,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    step_of,
)
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.data.reader import Batch
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import joined
from alphanet_zoo.train.folder import (
    check_config,
    check_resumed,
    digits_folder,
    fingerprint,
    locked,
    save_results,
    store_config,
)
from alphanet_zoo.train.guard import Guard, Verdict
from alphanet_zoo.train.prepare import prepare, warn_of_large_images
from alphanet_zoo.train.progress import Progress
from alphanet_zoo.train.report import write_report
from alphanet_zoo.train.runlog import Meter, RunLog
from alphanet_zoo.train.sandwich import StepOutcome
from alphanet_zoo.train.state import RunState, guard_state, micro_batches_per_process
from alphanet_zoo.train.validation import Validator


@dataclass(frozen=True)
class RunResult:
    """Result of a call of `train`.

    Attributes:
        config: The config of the run, with all settings determined.
        start: Number of steps that were completed before this call.
        step: Number of completed steps of the run, including earlier calls.
        model: ``final/model.safetensors``; None if a signal stopped the run before its end.
        signal: The signal that stopped the run, or None.
        validation: Metrics of each validated subnet after the last step, by name (in the first process).
    """

    config: TrainConfig
    start: int
    step: int
    model: Path | None
    signal: int | None
    validation: dict[str, dict[str, float]] = field(default_factory=dict)


def train(config: TrainConfig, *, resume_anyway: bool = False, time_limit: float | None = None) -> RunResult:
    """Trains a net, or resumes the run in ``config.output``. Runs alone or as one of torchrun's processes.

    On a CPU, with the same numbers of processes and threads, a run that was stopped and resumed any number of times
    gives the same bytes as an uninterrupted one. A trained supernet has no batch-norm statistics: extract a subnet and
    calibrate it.

    Args:
        config: The config of the run.
        resume_anyway: Resume a run with a different config, and reset its number of rollbacks.
        time_limit: Seconds after which the run completes its step, saves a checkpoint and stops, as on SIGTERM.

    Raises:
        UsageError: The folder contains a run with a different config, data is missing, or settings do not match it.
        AlphaNetError: All checkpoints are damaged, too many images are broken, or training fails repeatedly.
        MissingDependencyError: The config requires a package that is not installed.
    """
    output, deadline = Path(config.output), None if time_limit is None else time.monotonic() + time_limit
    with ExitStack() as stack:
        ranks = stack.enter_context(joined(config.device, config.distributed))
        notes: list[str] = []
        config = ranks.from_first(partial(prepare, config, notes.append))
        changed = ranks.from_first(lambda: check_config(output, config, resume_anyway=resume_anyway))
        stack.enter_context(locked(output, ranks))
        checkpoint = ranks.from_first(lambda: latest_checkpoint(output / "checkpoints"))
        accumulate = config.optim.accumulate
        if not resume_anyway:
            accumulate = micro_batches_per_process(config, ranks.world_size, checkpoint)
        run = RunState(config, ranks, accumulate=accumulate)
        run.data = ranks.from_first(lambda: fingerprint(run.batches))
        changed += [
            text
            for text in ranks.from_first(
                lambda: check_resumed(output, checkpoint, config, run.data, resume_anyway=resume_anyway)
            )
            if text not in changed
        ]
        run.restore(checkpoint)
        if run.step > run.end:
            raise UsageError(
                f"the run in {output} is at step {run.step}, past its end at {run.end}; pass a larger max_steps"
            )
        if resume_anyway:
            run.guard.forget_rollbacks()
        validator = Validator(config, ranks, run.net.space) if config.validation.every_epochs else None
        progress = Progress(enabled=config.log.progress and ranks.first, start=run.step, end=run.end)
        stack.callback(progress.close)
        for note in notes:
            progress.say(note)
        if 0 < run.step < run.end:
            progress.say(f"resumed from step {run.step} of {run.end}")
        if run.step == 0 and ranks.first:
            warn_of_large_images(config, run.batches.source)
        start = run.step
        with (
            RunLog(output if ranks.first else None, start=run.step, tensorboard=config.log.tensorboard) as log,
            collected_signals(None if deadline is None else max(deadline - time.monotonic(), 0.0)) as received,
        ):
            ranks.from_first(lambda: store_config(output, config))
            if changed:
                log.note(run.step, "config changed", "; ".join(changed))
            if accumulate != config.optim.accumulate:
                log.note(run.step, "micro-batches kept", f"each process uses {accumulate} micro-batches per step")
            stopped_by = _Loop(run, log, received, validator, progress).run_to_end()
        model = ranks.from_first(partial(_save_results, output, run)) if run.step == run.end else None
        return RunResult(config, start, run.step, model, stopped_by, log.validations.get(run.step, {}))


def _save_results(output: Path, run: RunState) -> Path:
    """Writes the results of a finished run; returns the file of the net."""
    if run.config.data.source == "digits" and run.config.data.root is None:
        write_digits(digits_folder(run.config))
    return save_results(output, run)


@dataclass(frozen=True)
class _Launched:
    """A step whose outcome has not been read yet."""

    step: int
    rate: float
    batch: Batch
    outcome: StepOutcome


def steps_ahead(device: torch.device) -> int:
    """Number of steps that may be launched before the outcome of a step is read."""
    return 1 if device.type == "cuda" else 0


class _Loop:
    """Runs training steps until the end of the run or a signal."""

    def __init__(
        self, run: RunState, log: RunLog, received: list[int], validator: Validator | None, progress: Progress
    ) -> None:
        """Continues from the current step of ``run``; ``received`` fills with signals."""
        self.run, self.log, self.received, self.config, self.validator = run, log, received, run.config, validator
        self.checkpoints, self.progress = Path(run.config.output) / "checkpoints", progress
        self.meter = Meter(run.ranks.device)

    def run_to_end(self) -> int | None:
        """Runs to the end or to a signal, which it returns. A rollback restarts the inner loop with other batches."""
        run, stopped_by = self.run, None
        while run.step < run.end and stopped_by is None:
            launched = deque[_Launched]()
            with run.stream() as batches:
                for batch in self.meter.waiting_for(batches):
                    rate, outcome = run.rate, run.advance(batch, self.received)
                    self.meter.count(self.config.data.batch_size)
                    launched.append(_Launched(run.step, rate, batch, outcome))
                    stopped_by, rolled_back = self._complete(launched)
                    if rolled_back or stopped_by is not None:
                        break
                    if run.step < run.end and run.step % run.batches.steps_per_epoch == 0:
                        self._validate()
        if run.step == run.end and stopped_by is None:
            self._validate()
        self._report()
        return stopped_by

    def _complete(self, launched: deque[_Launched]) -> tuple[int | None, bool]:
        """Reads the outcomes of launched steps; returns a signal that was received, and whether a rollback was due.

        On a GPU an outcome is read after the next step is launched, so that the GPU never waits for the host. Before a
        step is logged, saved or validated, all are read, so the results do not depend on this.
        """
        run, config, stopped_by = self.run, self.config, None
        reads_all = any(map(self._due, (config.log.every_steps, config.checkpoint_every_steps,
                                        run.batches.steps_per_epoch)))  # fmt: skip
        while len(launched) > (0 if reads_all or stopped_by is not None else steps_ahead(run.ranks.device)):
            each = launched.popleft()
            stopped_by = stopped_by or each.outcome.signal
            verdict = run.guard.observe(finite=each.outcome.finite, loss=each.outcome.label_loss)
            if verdict is Verdict.ROLL_BACK:
                roll_back(run, each.step, self.checkpoints, self.log)
                self.progress.move_to(run.step)
                return stopped_by, True
            self.progress.move_to(each.step)
            if verdict is Verdict.SKIP:
                self.log.note(each.step, "skipped", "a loss or a gradient was not finite")
            elif self._due(config.log.every_steps) and each.step == run.step:
                self._log(each)
        if stopped_by is not None or self._due(config.checkpoint_every_steps):
            self._save()
        return stopped_by, False

    def _log(self, launched: _Launched) -> None:
        """Writes and shows the metrics of a step."""
        run = self.run
        line: dict[str, Any] = {"step": launched.step, "epoch": launched.batch.epoch, "lr": launched.rate}
        line |= {"broken_images": len(run.batches.broken.messages), **self.meter.read()}
        line["subnets"] = run.metrics(launched.batch, launched.outcome)
        self.log.write(line)
        self.progress.report(line, self.config.optim.epochs)

    def _report(self) -> None:
        """Writes ``run.html``."""
        if self.run.ranks.first:
            write_report(Path(self.config.output))

    def _due(self, every_steps: int) -> bool:
        """Whether an action that happens every ``every_steps`` steps and at the end is due."""
        return self.run.step == self.run.end or self.run.step % every_steps == 0

    def _save(self) -> None:
        """Writes a checkpoint."""
        checkpoint, keep = self.run.checkpoint(), self.config.checkpoints_kept
        self.run.ranks.from_first(lambda: str(save_checkpoint(self.checkpoints, checkpoint, keep=keep)))

    def _validate(self) -> None:
        """Validates if it is due and was not done before this step; a signal interrupts it."""
        run, every = self.run, self.config.validation.every_epochs * self.run.batches.steps_per_epoch
        if (
            self.validator is None
            or not self._due(every)
            or run.ranks.from_first(lambda: run.step in self.log.validations)
        ):
            return
        metrics = self.validator(run.net, lambda: bool(self.received))
        if metrics is not None:
            self.log.write({"step": run.step, "validation": metrics})
            self.progress.validated(run.step, metrics)
            self._report()


def roll_back(run: RunState, failed: int, folder: Path, log: RunLog) -> None:
    """Restores the last healthy checkpoint, or the start of the run if there is no checkpoint yet.

    Draws continue after those of the failed step, so that no batch leads to the same failure again. They depend on the
    steps only: a run that is stopped and resumed around a rollback gives the same result as an uninterrupted one.
    Checkpoints of later steps are removed.

    Args:
        run: The run. Steps that were launched after the failed one are discarded.
        failed: The failed step, from 1.
        folder: The folder of checkpoints.
        log: The log of the run.

    Raises:
        AlphaNetError: The limit of rollbacks is reached, or no checkpoint is healthy.
    """
    reason = run.guard.reason()
    run.guard.check_may_roll_back(failed)
    every = run.config.checkpoint_every_steps
    checkpoint = run.ranks.from_first(lambda: healthy_checkpoint(folder, run.guard, every))
    before = run.guard.state
    run.restore(checkpoint)
    restored, run.guard.state = run.guard.state, before
    run.guard.go_back(restored, failed=failed, restored=run.step)
    run.ranks.from_first(lambda: discard_after(folder, run.step))
    log.note(failed, "rolled back", f"{reason}; continuing from step {run.step} with other batches")


def healthy_checkpoint(folder: Path, guard: Guard, every: int) -> Checkpoint | None:
    """The newest undamaged, healthy checkpoint; None if there are no checkpoints.

    Checkpoints of regular steps (multiples of ``every``) are preferred, so that stops in between do not change the
    result of a rollback.

    Raises:
        AlphaNetError: There are checkpoints, but none is healthy.
    """
    paths = list_checkpoints(folder)
    for path in sorted(paths, key=lambda path: (step_of(path) % every == 0, step_of(path)), reverse=True):
        try:
            checkpoint = load_checkpoint(path)
        except AlphaNetError:
            continue
        if guard.is_healthy(guard_state(checkpoint)):
            return checkpoint
    if paths:
        raise AlphaNetError(
            f"{guard.reason()}, and every checkpoint in {folder} is damaged or too late. Lower optim.lr, keep more "
            "checkpoints (checkpoints_kept), and pass another output"
        )
    return None


@contextmanager
def collected_signals(seconds: float | None = None) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of ending the process, so that a step can be completed and saved.

    Args:
        seconds: Add a SIGTERM to the list after this time; None disables it.
    """
    received: list[int] = []
    timer = threading.Timer(seconds or 0.0, received.append, [signal.SIGTERM])
    timer.daemon = True
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        if seconds is not None:
            timer.start()
        yield received
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
