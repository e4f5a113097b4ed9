"""The state of a run: net, optimiser, moving average, guard and batches; steps, checkpoints and restores them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch

from alphanet_zoo.checkpoint import Checkpoint
from alphanet_zoo.data.batches import TrainingBatches, worker_errors
from alphanet_zoo.data.draws import torch_seed
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.reader import Batch
from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.config import as_calibration, restored_cfg
from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.layers import shrink_to
from alphanet_zoo.nn.synced_norm import synchronise
from alphanet_zoo.space.family import Arch
from alphanet_zoo.train.attentive import attentive_archs
from alphanet_zoo.train.build import (
    build_losses,
    build_net,
    chance_loss,
    choose_kernels,
    image_cfg,
    order_channels,
)
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.gradients import Gradients
from alphanet_zoo.train.graphs import GraphedPasses
from alphanet_zoo.train.guard import Guard, GuardState
from alphanet_zoo.train.optim import (
    WeightAverage,
    largest_resolution,
    learning_rate,
    make_optimizer,
    peak_learning_rate,
    resolution_phases,
    set_momentum,
)
from alphanet_zoo.train.runlog import SINGLE
from alphanet_zoo.train.sandwich import (
    MicroBatch,
    SandwichStep,
    StepOutcome,
    compile_recurring,
    draw_archs,
    mean_metrics,
    subnet_metrics,
)
from alphanet_zoo.zoo.built import built


class RunState:
    """The state of a run after a number of steps.

    Args:
        config: The config of the run.
        ranks: The processes.
        accumulate: Micro-batches per process per step; None: ``optim.accumulate``.

    Attributes:
        step: Number of completed steps, including skipped ones.
        end: The last step of the run.
        total_steps: Number of steps of the schedule.
        data: What identifies the training images; part of every checkpoint.
    """

    data: Mapping[str, Any] = {}

    def __init__(self, config: TrainConfig, ranks: Ranks, *, accumulate: int | None = None) -> None:
        """Builds everything from the config, at step 0."""
        self.config, self.ranks, self.step = config, ranks, 0
        self._accumulate = accumulate or config.optim.accumulate
        preprocessing = Preprocessing.from_cfg(image_cfg(config))
        with ranks.leader_goes_ahead():
            self.batches = TrainingBatches(
                config.data, preprocessing, config.seed, rank=ranks.rank, world_size=ranks.world_size
            )
        classes, optim = self.batches.classes, config.optim
        _check_batch_size(config.data.batch_size, ranks.world_size, self._accumulate)
        self.net = build_net(config, classes).to(ranks.device).to(memory_format=torch.channels_last)
        self.average = None if optim.ema_decay is None else WeightAverage(self.net, optim.ema_decay)
        if config.distributed.sync_bn and ranks.world_size > 1:
            synchronise(self.net, ranks.sum_, ranks.world_size)
        choose_kernels(self.net, config, ranks.device)
        self.optimizer = make_optimizer(self.net, optim)
        chance = chance_loss(self.batches.labels, len(classes), config.sandwich.label_smoothing)
        self.guard = Guard(config.guard, chance)
        gradients = Gradients(self.net)
        self.update = SandwichStep(
            self.net, self.optimizer, gradients, build_losses(config, classes, ranks.device), ranks,
            clip_value=optim.clip_value, bf16=optim.precision == "bf16",
            bf16_gradients=config.distributed.bf16_gradients,
            compiled=compile_recurring(self.net) if optim.compile else {}, average=self.average,
            graphs=GraphedPasses(gradients.flat) if optim.cuda_graphs else None,
        )  # fmt: skip
        self.total_steps = optim.epochs * self.batches.steps_per_epoch
        self.end = min(config.max_steps or self.total_steps, self.total_steps)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        optim = self.config.optim
        peak = peak_learning_rate(optim, self.config.data.batch_size)
        warmup_steps = round(optim.warmup_epochs * self.batches.steps_per_epoch)
        return learning_rate(
            self.step, peak=peak, total_steps=self.total_steps, warmup_steps=warmup_steps,
            linear=optim.schedule == "linear",
        )  # fmt: skip

    @property
    def phases(self) -> list[tuple[int, int | None]]:
        """The phases of the run, as (first step of the next phase, largest resolution or None)."""
        phases = resolution_phases(self.config.sandwich.resolution_schedule, self.total_steps)
        reached: list[tuple[int, int | None]] = []
        for end, resolution in phases:
            if not reached or reached[-1][0] < self.end:
                reached.append((min(end, self.end), resolution))
        return reached or [(self.end, None)]

    @property
    def resolution(self) -> int | None:
        """The largest resolution of the next step; None if there is no limit."""
        return largest_resolution(self.step, self.config.sandwich.resolution_schedule, self.total_steps)

    @contextmanager
    def stream(self) -> Iterator[Iterator[Batch]]:
        """The batches of the remaining steps; see `GuardState.draw_offset`. The data workers live for the block.

        Raises AlphaNetError if one dies.
        """
        offset = self.guard.state.draw_offset
        batches = self.batches.stream(self.step + offset, self.end + offset, self.ranks.device)
        with worker_errors(), closing(batches):
            yield batches

    def advance(self, batch: Batch, received: Sequence[int] = ()) -> StepOutcome:
        """Runs the next step.

        Args:
            batch: The share of this process of the batch.
            received: Signals that this process has received.
        """
        seed, draw, device = self.config.seed, self.step + self.guard.state.draw_offset, self.ranks.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        micro_batches = [(part.images, part.labels) for part in batch.split(self._accumulate)]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            outcome = self.update(
                micro_batches, self._archs(draw, micro_batches[0]), received=received,
                seed_of=lambda number: torch_seed(seed, "dropout", draw, number), resolution=self.resolution,
            )  # fmt: skip
        self.step += 1
        return outcome

    def metrics(self, batch: Batch, outcome: StepOutcome) -> dict[str, dict[str, float]]:
        """Metrics of each subnet in a step, over all processes."""
        pairs = zip(outcome.micro_batches, batch.split(self._accumulate), strict=True)
        return mean_metrics([subnet_metrics(o, b.labels, self.config.sandwich) for o, b in pairs], self.ranks)

    def averaged_net(self) -> Network:
        """A net with the moving average as its weights.

        Raises:
            ValueError: The run has no moving average.
        """
        if self.average is None:
            raise ValueError("the run has no moving average; set optim.ema_decay")
        net = built(self.net.config())
        net.load_state_dict({k: t.clone() for k, t in self.average.module.state_dict().items()}, assign=True)
        return net.train(self.net.training)

    def checkpoint(self) -> Checkpoint:
        """A checkpoint of the current state."""
        tensors = {f"model/{name}": tensor for name, tensor in self.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            if self.optimizer.state[parameter].get("momentum_buffer") is not None:
                tensors[f"momentum/{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        if self.average is not None:
            tensors |= {f"ema/{name}": tensor for name, tensor in self.average.module.state_dict().items()}
        state: dict[str, Any] = {
            "config": self.config.model_dump(mode="json"), "net": self.net.config(),
            "guard": self.guard.state.to_dict(), "micro_batches": self.ranks.world_size * self._accumulate,
            "data": dict(self.data),
        }  # fmt: skip
        return Checkpoint(self.step, tensors, state)

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Restores a checkpoint; None restores the start of the run."""
        groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "momentum": {}, "ema": {}}
        if checkpoint is None:
            fresh = build_net(self.config, self.batches.classes)
            order_channels(fresh, self.config, self.ranks, self._first_images)
            groups["model"], described = dict(fresh.state_dict()), fresh.config()
        else:
            described = checkpoint.state["net"]
        for name, tensor in checkpoint.tensors.items() if checkpoint else ():
            group, _, inner = name.partition("/")
            groups[group][inner] = tensor
        self.net.load_state_dict(groups["model"])
        self.net.calibration = as_calibration(described["calibration"])
        self.net.pretrained_cfg["label_names"] = restored_cfg(described["pretrained_cfg"])["label_names"]
        set_momentum(self.optimizer, self.net, groups["momentum"])
        if self.average is not None:
            self.average.module.load_state_dict(groups["ema"] or groups["model"])
        self.step = checkpoint.step if checkpoint else 0
        self.guard.state = guard_state(checkpoint)

    def _first_images(self, count: int = 64) -> torch.Tensor:
        """Normalised training images ``(count, C, H, W)`` of the first steps; fewer if an epoch has fewer."""
        found: list[torch.Tensor] = []
        while sum(map(len, found)) < count and len(found) < self.batches.steps_per_epoch:
            found.append(self.batches.batch(len(found), self.ranks.device).images)
        return torch.cat(found)[:count]

    def _archs(self, draw: int, first: MicroBatch) -> dict[str, Arch]:
        """The archs of a step; attentive sampling uses the losses on the first micro-batch."""
        config = self.config
        if not self.net.supernet:
            return {SINGLE: self.net.arch}
        if config.sandwich.sampling == "uniform":
            return draw_archs(self.net.space, config.seed, draw, config.sandwich.random_subnets)
        return attentive_archs(
            self.net.space, config.sandwich, config.seed, draw, lambda archs: self._losses_on(first, archs)
        )

    @torch.no_grad()
    def _losses_on(self, micro_batch: MicroBatch, archs: Sequence[Arch]) -> list[float]:
        """Losses of archs against the labels, over all processes."""
        (images, labels), cap = micro_batch, self.resolution
        images = images if cap is None else shrink_to(images, cap)
        label_loss = self.update.losses.label
        return self.ranks.mean([float(label_loss(self.update.forward(images, arch, cap), labels)) for arch in archs])


def guard_state(checkpoint: Checkpoint | None) -> GuardState:
    """The state of the guard in a checkpoint; an empty state for None."""
    return GuardState(**(checkpoint.state["guard"] if checkpoint else {}))


def micro_batches_per_process(config: TrainConfig, processes: int, checkpoint: Checkpoint | None) -> int:
    """Micro-batches per process such that batch norm sees as many images as before the run was stopped.

    A step consists of processes x ``optim.accumulate`` micro-batches. If a run is resumed with another number of
    processes, that product is kept. With synchronised batch norm ``optim.accumulate`` is kept instead, because the
    statistics then cover the micro-batches of all processes.

    Args:
        config: The config of the run.
        processes: The current number of processes.
        checkpoint: The checkpoint to resume from; None at the start of the run.

    Raises:
        UsageError: The micro-batches cannot be divided evenly among the processes.
    """
    stated = config.optim.accumulate
    if checkpoint is None or config.distributed.sync_bn or checkpoint.state["config"]["optim"]["accumulate"] != stated:
        return stated
    # Older checkpoints call the number "parts", or lack it.
    total: int = checkpoint.state.get("micro_batches", checkpoint.state.get("parts", processes * stated))
    if total % processes:
        raise UsageError(
            f"the run uses {total} micro-batches per step, which cannot be divided among {processes} processes; start "
            f"a number of processes that divides {total}, or pass --resume-anyway to use {processes * stated} "
            "micro-batches from now on"
        )
    return total // processes


def _check_batch_size(batch_size: int, processes: int, accumulate: int) -> None:
    """Checks that the batch can be divided into micro-batches."""
    total = processes * accumulate
    if batch_size % total:
        raise ValueError(
            f"data.batch_size is {batch_size}; pass a multiple of {total}, the number of processes ({processes}) "
            f"times optim.accumulate ({accumulate})"
        )
