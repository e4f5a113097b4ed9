"""A training run from its config to its supernet, which may stop at any step and go on."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.nn.config import default_cfg
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import SPACES
from alphanet_zoo.train.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.draws import torch_seed
from alphanet_zoo.train.loader import Batch, TrainingBatches
from alphanet_zoo.train.optim import learning_rate, make_optimizer, peak_learning_rate
from alphanet_zoo.train.runlog import RunLog
from alphanet_zoo.train.sandwich import (
    SubnetOutcome,
    distillation_loss,
    draw_archs,
    label_loss_of,
    sandwich_step,
    subnet_metrics,
)
from alphanet_zoo.zoo.files import save_net
from alphanet_zoo.zoo.preprocess import Preprocessing


@dataclass(frozen=True)
class RunResult:
    """How a call of `train` ended.

    Attributes:
        step: Steps that the run has behind it, earlier calls included.
        model: ``final/model.safetensors``; None where a signal stopped the run before its end.
        signal: The signal that stopped it, or None.
    """

    step: int
    model: Path | None
    signal: int | None


def train(config: TrainConfig) -> RunResult:
    """Trains a supernet, or goes on with the run that is in ``config.output``.

    On a CPU, with the same number of threads, a run that was stopped and continued any number of times gives the
    same bytes as one that was not. The supernet has no batch-norm statistics: extract a subnet and calibrate it.

    Raises:
        UsageError: The folder holds a run of another config, the data is missing, or a value does not fit it.
        AlphaNetError: All checkpoints are damaged, an image cannot be read, or the loss is no longer finite.
        MissingDependencyError: A package that the config asks for is missing.
    """
    output = Path(config.output)
    _claim(output, config)
    run = _Run(config)
    start = run.restore(latest_checkpoint(output / "checkpoints"))
    if start > run.end:
        raise UsageError(f"the run in {output} is at step {start}, past its end at {run.end}; give a larger max_steps")
    with replacing(output / "config.yaml") as temporary:
        temporary.write_text(config.to_yaml(), "utf-8")
    step, received = start, None
    with (
        RunLog(output, start=start, tensorboard=config.log.tensorboard) as log,
        _signals() as caught,
        closing(run.batches.stream(start, run.end, run.device)) as batches,
    ):
        for step in run.progress(start):
            run.step(step, batches, log)
            received = caught[0] if caught else None
            if step == run.end or received is not None or step % config.checkpoint_every_steps == 0:
                save_checkpoint(output / "checkpoints", run.checkpoint(step), keep=config.checkpoints_kept)
            if received is not None:
                break
    if step < run.end:
        return RunResult(step, None, received)
    model = output / "final" / "model.safetensors"
    save_net(run.net, model)
    return RunResult(step, model, received)


class _Run:
    """The moving parts of a run: net, optimiser, batches."""

    def __init__(self, config: TrainConfig) -> None:
        """Builds them from the config; the initial weights are drawn from the seed."""
        space, sandwich = SPACES[config.space], config.sandwich
        self.config = config
        self.device = _device(config.device)
        preprocessing = Preprocessing.from_cfg(default_cfg(space.largest, 0))
        self.batches = TrainingBatches(config.data, preprocessing, config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(config.seed, "weights"))
            net = AlphaNet(
                space.largest, space, len(self.batches.classes), supernet=True,
                drop_rate=sandwich.drop_rate, drop_path_rate=sandwich.drop_path_rate,
            )  # fmt: skip
        net.pretrained_cfg["label_names"] = tuple(self.batches.classes)
        self.net = net.to(self.device).to(memory_format=torch.channels_last).train()
        self.optimizer = make_optimizer(self.net, config.optim)
        self.peak = peak_learning_rate(config.optim, config.data.batch_size)
        self.total_steps = config.optim.epochs * self.batches.steps_per_epoch
        self.warmup_steps = round(config.optim.warmup_epochs * self.batches.steps_per_epoch)
        self.end = min(config.max_steps or self.total_steps, self.total_steps)
        self.label_loss, self.distillation = label_loss_of(sandwich), distillation_loss(sandwich)

    def step(self, step: int, log: RunLog) -> None:
        """Makes the ``step``-th update (from 1) and logs it where its turn has come."""
        config, began, index = self.config, time.perf_counter(), step - 1
        batch = self.batches.batch(index)
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        labels = batch.labels.to(self.device)
        rate = learning_rate(index, peak=self.peak, total_steps=self.total_steps, warmup_steps=self.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        archs = draw_archs(self.net.space, config.seed, index, config.sandwich.random_subnets)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(torch_seed(config.seed, "dropout", index))
            outcomes = sandwich_step(
                self.net, images, labels, archs, self.optimizer, label_loss=self.label_loss,
                distillation=self.distillation, clip_value=config.optim.clip_value,
            )  # fmt: skip
        _check_finite(outcomes, step)
        if step % config.log.every_steps == 0 or step == self.end:
            figures = subnet_metrics(outcomes, labels, config.sandwich)
            speed = len(labels) / (time.perf_counter() - began)
            log.write({"step": step, "epoch": batch.epoch, "lr": rate, "images_per_second": speed, "subnets": figures})

    def progress(self, start: int) -> Iterator[int]:
        """The steps that are left, from ``start + 1``, behind a progress bar where the config wants one."""
        steps = range(start + 1, self.end + 1)
        return iter(
            tqdm(steps, "training", initial=start, total=self.end, unit="step", file=sys.stderr,
                 disable=not self.config.log.progress)
        )  # fmt: skip

    def checkpoint(self, step: int) -> Checkpoint:
        """The state after ``step`` updates."""
        tensors = {f"model/{name}": tensor for name, tensor in self.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            if self.optimizer.state[parameter].get("momentum_buffer") is not None:
                tensors[f"momentum/{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        return Checkpoint(step, tensors, {"config": self.config.model_dump(mode="json")})

    def restore(self, checkpoint: Checkpoint | None) -> int:
        """Takes up a checkpoint's state; gives the number of steps behind it, 0 without one."""
        if checkpoint is None:
            return 0
        tensors = checkpoint.tensors
        model = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
        self.net.load_state_dict(model)
        for name, parameter in self.net.named_parameters():
            if f"momentum/{name}" in tensors:
                self.optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum/{name}"].to(self.device)
        return checkpoint.step


def _device(name: str) -> torch.device:
    """The device that the config names."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is cuda, and torch finds no GPU; give device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _claim(output: Path, config: TrainConfig) -> None:
    """Makes the output folder, or checks that the run in it is this config's."""
    path = output / "config.yaml"
    if path.exists():
        try:
            stored = TrainConfig.model_validate(yaml.safe_load(path.read_text("utf-8")))
        except (ValueError, yaml.YAMLError) as error:
            raise AlphaNetError(f"{path} is no config of this version: {error}; give another output") from error
        if changed := stored.differences(config):
            raise UsageError(f"{output} holds a run of another config ({'; '.join(changed)}); give another output")
    output.mkdir(parents=True, exist_ok=True)


def _check_finite(outcomes: list[SubnetOutcome], step: int) -> None:
    """Raises where a loss of the step is infinite or NaN."""
    for outcome in outcomes:
        if not torch.isfinite(outcome.loss):
            raise AlphaNetError(
                f"the loss of the {outcome.name} subnet is {float(outcome.loss)} at step {step}; "
                "lower optim.lr or lengthen optim.warmup_epochs, and give another output"
            )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Gathers SIGINT and SIGTERM in a list instead of dying of them, so that the step can end and be saved."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {
        number: signal.signal(number, lambda received, _: caught.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
