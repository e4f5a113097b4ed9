"""The moving parts of a run, and how they step, are saved and are taken up again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch

from alphanet_zoo.data.batch import Batch
from alphanet_zoo.data.draws import torch_seed
from alphanet_zoo.data.loader import TrainingBatches
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.nn.config import as_calibration, restored_cfg
from alphanet_zoo.nn.layers import shrink_to
from alphanet_zoo.nn.synced_norm import synchronise
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.train.attentive import attentive_archs
from alphanet_zoo.train.average import WeightAverage
from alphanet_zoo.train.build import build_losses, build_net, choose_kernels, image_cfg, loss_of_a_guess
from alphanet_zoo.train.checkpoint import Checkpoint
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.gradients import Gradients
from alphanet_zoo.train.guard import Guard, GuardState
from alphanet_zoo.train.optim import (
    largest_resolution,
    learning_rate,
    make_optimizer,
    peak_learning_rate,
    resolution_phases,
)
from alphanet_zoo.train.sandwich import (
    Part,
    SandwichStep,
    StepOutcome,
    compile_recurring,
    draw_archs,
    mean_metrics,
    subnet_metrics,
)


class RunState:
    """A run at some step: net, optimiser, mean of the weights, guard, batches.

    Attributes:
        step: Steps behind it, skipped ones included.
        end: The step that it ends with.
        total_steps: Steps of the schedule.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks, *, parts: int | None = None) -> None:
        """Builds everything from the config; the run is then at step 0.

        Each process takes its share of a batch in ``parts`` parts; None: ``optim.accumulate``.
        """
        self.config, self.ranks, self.step = config, ranks, 0
        self._parts = parts or config.optim.accumulate
        preprocessing = Preprocessing.from_cfg(image_cfg(config))
        with ranks.leader_goes_ahead():
            self.batches = TrainingBatches(
                config.data, preprocessing, config.seed, rank=ranks.rank, world_size=ranks.world_size
            )
        classes, optim = self.batches.classes, config.optim
        _check_parts(config.data.batch_size, ranks.world_size, self._parts)
        self.net = build_net(config, classes).to(ranks.device).to(memory_format=torch.channels_last)
        if config.distributed.sync_bn and ranks.world_size > 1:
            synchronise(self.net, ranks.sum_, ranks.world_size)
        choose_kernels(self.net, config, ranks.device)
        self.optimizer = make_optimizer(self.net, optim)
        self.average = WeightAverage(self.net, optim.ema_decay) if optim.ema_decay is not None else None
        guess = loss_of_a_guess(self.batches.labels, len(classes), config.sandwich.label_smoothing)
        self.guard = Guard(config.guard, guess)
        self.update = SandwichStep(
            self.net, self.optimizer, Gradients(self.net), build_losses(config, classes, ranks.device), ranks,
            clip_value=optim.clip_value, bf16=optim.precision == "bf16",
            bf16_gradients=config.distributed.bf16_gradients,
            compiled=compile_recurring(self.net) if optim.compile else {},
        )  # fmt: skip
        self.total_steps = optim.epochs * self.batches.steps_per_epoch
        self.end = min(config.max_steps or self.total_steps, self.total_steps)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        optim = self.config.optim
        peak = peak_learning_rate(optim, self.config.data.batch_size)
        warmup_steps = round(optim.warmup_epochs * self.batches.steps_per_epoch)
        return learning_rate(self.step, peak=peak, total_steps=self.total_steps, warmup_steps=warmup_steps)

    @property
    def phases(self) -> list[tuple[int, int | None]]:
        """The phases that the run goes through, as (first step of the next phase, largest resolution or None)."""
        phases = resolution_phases(self.config.sandwich.resolution_schedule, self.total_steps)
        reached: list[tuple[int, int | None]] = []
        for end, resolution in phases:
            if not reached or reached[-1][0] < self.end:
                reached.append((min(end, self.end), resolution))
        return reached or [(self.end, None)]

    @property
    def resolution(self) -> int | None:
        """The largest resolution of the next step; None: no cap."""
        return largest_resolution(self.step, self.config.sandwich.resolution_schedule, self.total_steps)

    def stream(self) -> Generator[Batch]:
        """The batches of the steps that are left; see `GuardState.draw_offset`."""
        offset = self.guard.state.draw_offset
        return self.batches.stream(self.step + offset, self.end + offset, self.ranks.device)

    def advance(self, batch: Batch, received: Sequence[int] = ()) -> StepOutcome:
        """Makes the next step.

        Args:
            batch: This process's share of it.
            received: Signals that this process has received.
        """
        seed, draw, device = self.config.seed, self.step + self.guard.state.draw_offset, self.ranks.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        parts = [(part.images, part.labels) for part in batch.split(self._parts)]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            outcome = self.update(
                parts, self._archs(draw, parts[0]), received=received,
                seed_of=lambda part: torch_seed(seed, "dropout", draw, part), resolution=self.resolution,
            )  # fmt: skip
        if outcome.finite and self.average is not None:
            self.average.update(self.net)
        self.step += 1
        return outcome

    def figures(self, batch: Batch, outcome: StepOutcome) -> dict[str, dict[str, float]]:
        """Figures of each subnet in a step, over all processes."""
        parts = zip(outcome.parts, batch.split(self._parts), strict=True)
        return mean_metrics([subnet_metrics(o, p.labels, self.config.sandwich) for o, p in parts], self.ranks)

    def checkpoint(self) -> Checkpoint:
        """The state after the last step."""
        tensors = {f"model/{name}": tensor for name, tensor in self.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            if self.optimizer.state[parameter].get("momentum_buffer") is not None:
                tensors[f"momentum/{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        if self.average is not None:
            tensors |= {f"ema/{name}": tensor for name, tensor in self.average.tensors.items()}
        state: dict[str, Any] = {
            "config": self.config.model_dump(mode="json"), "net": self.net.config(),
            "guard": self.guard.state.to_dict(), "parts": self.ranks.world_size * self._parts,
        }  # fmt: skip
        return Checkpoint(self.step, tensors, state)

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Takes up a checkpoint; without one, the beginning."""
        groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "momentum": {}, "ema": {}}
        if checkpoint is None:
            groups["model"] = dict(build_net(self.config, self.batches.classes).state_dict())
        for name, tensor in checkpoint.tensors.items() if checkpoint else ():
            group, _, inner = name.partition("/")
            groups[group][inner] = tensor
        described = checkpoint.state["net"] if checkpoint else self.net.config()
        self.net.load_state_dict(groups["model"])
        self.net.calibration = as_calibration(described["calibration"])
        self.net.pretrained_cfg["label_names"] = restored_cfg(described["pretrained_cfg"])["label_names"]
        self.optimizer.state.clear()
        for name, parameter in self.net.named_parameters():
            if name in groups["momentum"]:
                # In the parameter's memory layout: the fused update walks both as they lie.
                buffer = torch.empty_like(parameter).copy_(groups["momentum"][name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        if self.average is not None:
            self.average.restore(groups["ema"] or groups["model"])
        self.step = checkpoint.step if checkpoint else 0
        self.guard.state = guard_state(checkpoint)

    def _archs(self, draw: int, part: Part) -> dict[str, ArchSpec]:
        """The subnets of a step; the first part's images choose attentive ones."""
        config = self.config
        if not self.net.supernet:
            return {"subnet": self.net.arch}
        if config.sandwich.sampling == "uniform":
            return draw_archs(self.net.space, config.seed, draw, config.sandwich.random_subnets)
        return attentive_archs(
            self.net.space, config.sandwich, config.seed, draw, lambda archs: self._losses_on(part, archs)
        )

    @torch.no_grad()
    def _losses_on(self, part: Part, archs: Sequence[ArchSpec]) -> list[float]:
        """Losses of some archs against the labels, over all processes."""
        (images, labels), cap = part, self.resolution
        images = images if cap is None else shrink_to(images, cap)
        label_loss = self.update.losses.label
        return self.ranks.mean([float(label_loss(self.update.forward(images, arch, cap), labels)) for arch in archs])


def guard_state(checkpoint: Checkpoint | None) -> GuardState:
    """What the guard remembered when a checkpoint was made."""
    return GuardState(**(checkpoint.state["guard"] if checkpoint else {}))


def _check_parts(batch_size: int, processes: int, accumulate: int) -> None:
    """Checks that the batch can be shared out."""
    parts = processes * accumulate
    if batch_size % parts:
        raise ValueError(
            f"data.batch_size is {batch_size}; give a multiple of {parts}, the number of processes ({processes}) "
            f"times optim.accumulate ({accumulate})"
        )
