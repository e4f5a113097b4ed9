"""A training run from its config to its net, which may stop at any step, go back, and go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from alphanet_zoo.data.batches import Batch
from alphanet_zoo.errors import UsageError
from alphanet_zoo.train.checkpoint import latest_checkpoint, save_checkpoint
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import joined
from alphanet_zoo.train.folder import claim, held, save_results, store_config
from alphanet_zoo.train.guard import Verdict
from alphanet_zoo.train.meter import Meter
from alphanet_zoo.train.parts import parts_each
from alphanet_zoo.train.rollback import roll_back
from alphanet_zoo.train.runlog import RunLog
from alphanet_zoo.train.signals import gathered_signals
from alphanet_zoo.train.state import RunState
from alphanet_zoo.train.validation import Validator


@dataclass(frozen=True)
class RunResult:
    """How a call of `train` ended.

    Attributes:
        step: Steps that the run has behind it, earlier calls included.
        model: ``final/model.safetensors``; None where a signal stopped the run before its end.
        signal: The signal that stopped it, or None.
        validation: Figures of each subnet that was validated after the last step, by its name (in the first process).
    """

    step: int
    model: Path | None
    signal: int | None
    validation: dict[str, dict[str, float]] = field(default_factory=dict)


def train(config: TrainConfig, *, resume_anyway: bool = False, time_limit: float | None = None) -> RunResult:
    """Trains a net, or goes on with the run that is in ``config.output``; alone or as one of torchrun's processes.

    On a CPU, with the same numbers of processes and threads, a run that was stopped and continued any number of times
    gives the same bytes as one that was not. A supernet has no batch-norm statistics: extract a subnet and calibrate
    it.

    Args:
        config: The run's.
        resume_anyway: Go on with a run of another config, and forget its rollbacks.
        time_limit: Seconds after which the run ends its step, saves a checkpoint and stops, as SIGTERM would have it.

    Raises:
        UsageError: The folder holds a run of another config, the data is missing, or a value does not fit it.
        AlphaNetError: All checkpoints are damaged, too many images are broken, or training fails again and again.
        MissingDependencyError: A package that the config asks for is missing.
    """
    output, deadline = Path(config.output), None if time_limit is None else time.monotonic() + time_limit
    with ExitStack() as stack:
        ranks = stack.enter_context(joined(config.device, config.distributed))
        changed = ranks.from_first(lambda: claim(output, config, resume_anyway=resume_anyway))
        stack.enter_context(held(output, ranks))
        checkpoint = ranks.from_first(lambda: latest_checkpoint(output / "checkpoints"))
        parts = config.optim.accumulate if resume_anyway else parts_each(config, ranks.world_size, checkpoint)
        run = RunState(config, ranks, parts=parts)
        run.restore(checkpoint)
        if run.step > run.end:
            raise UsageError(
                f"the run in {output} is at step {run.step}, past its end at {run.end}; give a larger max_steps"
            )
        if resume_anyway:
            run.guard.forget_rollbacks()
        validator = Validator(config, ranks) if config.validation.every_epochs else None
        with (
            RunLog(output if ranks.first else None, start=run.step, tensorboard=config.log.tensorboard) as log,
            gathered_signals(None if deadline is None else max(deadline - time.monotonic(), 0.0)) as caught,
        ):
            ranks.from_first(lambda: store_config(output, config))
            if changed:
                log.note(run.step, "config changed", "; ".join(changed))
            if parts != config.optim.accumulate:
                log.note(run.step, "parts kept", f"each process takes its share of a batch in {parts} parts")
            signal = _Loop(run, log, caught, validator).finish()
        model = ranks.from_first(lambda: save_results(output, run)) if run.step == run.end else None
        return RunResult(run.step, model, signal, log.validations.get(run.step, {}))


class _Loop:
    """Takes a run to its end, or to the step at which a signal stops it."""

    def __init__(self, run: RunState, log: RunLog, caught: list[int], validator: Validator | None) -> None:
        """Goes on from where ``run`` is; ``caught`` fills with signals."""
        self.run, self.log, self.caught, self.config, self.validator = run, log, caught, run.config, validator
        self.checkpoints = Path(run.config.output) / "checkpoints"
        self.meter = Meter(run.ranks.device)
        self.bar = tqdm(
            desc="training", initial=run.step, total=run.end, unit="step", file=sys.stderr,
            disable=None if run.config.log.progress and run.ranks.first else True,  # None: no terminal, no bar.
        )  # fmt: skip

    def finish(self) -> int | None:
        """Goes on until the end or a signal; gives that signal."""
        signal = None
        with closing(self.bar):
            while self.run.step < self.run.end and signal is None:
                with closing(self.run.stream()) as batches:
                    signal = self._follow(self.meter.waiting_for(batches))
            if self.run.step == self.run.end and signal is None:
                self._validate()
        return signal

    def _follow(self, batches: Iterable[Batch]) -> int | None:
        """Makes steps until a signal, which it gives, a rollback, which calls for other batches, or the end."""
        run, config = self.run, self.config
        for batch in batches:
            rate, outcome = run.rate, run.advance(batch, self.caught)
            self.meter.count(config.data.batch_size)
            verdict = run.guard.observe(finite=outcome.finite, loss=outcome.label_loss)
            if verdict is Verdict.ROLL_BACK:
                roll_back(run, self.checkpoints, self.log)
                self.bar.update(run.step - self.bar.n)
                return outcome.signal
            self.bar.update()
            if verdict is Verdict.SKIP:
                self.log.note(run.step, "skipped", "a loss or a gradient was not finite")
            elif self._due(config.log.every_steps):
                line = {"step": run.step, "epoch": batch.epoch, "lr": rate, "broken_images": len(run.batches.broken)}
                self.log.write({**line, **self.meter.read(), "subnets": run.figures(batch, outcome)})
            if outcome.signal is not None or self._due(config.checkpoint_every_steps):
                self._save()
            if outcome.signal is not None:
                return outcome.signal
            if run.step < run.end and run.step % run.batches.steps_per_epoch == 0:
                self._validate()
        return None

    def _due(self, every_steps: int) -> bool:
        """Whether something that happens at the end and every so many steps happens now."""
        return self.run.step == self.run.end or self.run.step % every_steps == 0

    def _save(self) -> None:
        """Writes a checkpoint."""
        checkpoint, keep = self.run.checkpoint(), self.config.checkpoints_kept
        self.run.ranks.from_first(lambda: str(save_checkpoint(self.checkpoints, checkpoint, keep=keep)))

    def _validate(self) -> None:
        """Measures the config's subnets after whole epochs and at the end; a signal cuts it short."""
        run, every = self.run, self.config.validation.every_epochs * self.run.batches.steps_per_epoch
        if (
            self.validator is None
            or not self._due(every)
            or run.ranks.from_first(lambda: run.step in self.log.validations)
        ):
            return
        figures = self.validator(run.net, lambda: bool(self.caught))
        if figures is not None:
            self.log.write({"step": run.step, "validation": figures})
