"""One training step with the sandwich rule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from signal import SIGINT, SIGTERM
from typing import Any

import torch
from torch import Tensor

from alphanet_zoo.data.draws import generator
from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.layers import shrink_to
from alphanet_zoo.nn.losses import (
    AdaptiveAlphaDivergence,
    AlphaDivergence,
    KLDistillation,
    LabelSmoothedCrossEntropy,
    Loss,
    per_label,
)
from alphanet_zoo.nn.slicing import adding_to_gradients
from alphanet_zoo.space.family import Arch, Space
from alphanet_zoo.train.config import SandwichConfig
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.gradients import Gradients, StepReport
from alphanet_zoo.train.graphs import GraphedPasses
from alphanet_zoo.train.optim import WeightAverage

MOST_GRAPHS = 64
"""In a space of at most this many archs, every arch recurs often enough to keep a CUDA graph of it."""

MicroBatch = tuple[Tensor, Tensor]
"""Images ``(N, 3, H, W)`` and their labels: ``(N,)`` class indices, or ``(N, labels)`` of 0 and 1."""


@dataclass(frozen=True)
class SubnetOutcome:
    """Result of one subnet on a micro-batch.

    Attributes:
        name: 'largest', 'random-1', ... or 'smallest'.
        arch: Its architecture.
        logits: ``(N, classes)``, detached, before the update.
        loss: Scalar, detached.
    """

    name: str
    arch: Arch
    logits: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Losses:
    """The losses of the subnets.

    Attributes:
        label: Loss ``(logits, labels) -> scalar`` of the first subnet.
        distillation: Loss ``(student logits, teacher logits) -> scalar`` of the other subnets; None uses ``label``.
        teacher: Maps images to logits of a trained network, from which the first subnet also learns; None disables it.
        teacher_share: Weight of ``teacher`` in the loss of the first subnet; the labels get the rest.
        teacher_distance: Loss ``(logits, teacher logits) -> scalar`` of the first subnet against ``teacher``.
    """

    label: Loss
    distillation: Loss | None = None
    teacher: Callable[[Tensor], Tensor] | None = None
    teacher_share: float = 0.5
    teacher_distance: Loss = field(default_factory=KLDistillation)


@dataclass(frozen=True)
class StepOutcome:
    """Result of a step. On a GPU the step may still be running; `report` waits for it.

    Attributes:
        micro_batches: The outcomes of the subnets on each micro-batch of this process.
        numbers: ``(4,)`` float32 on the CPU, in the order of `StepReport`; complete once ``copied`` is reached.
        copied: The CUDA event that follows the copy to ``numbers``; None on a CPU.
    """

    micro_batches: list[list[SubnetOutcome]]
    numbers: Tensor
    copied: torch.cuda.Event | None = None

    @cached_property
    def report(self) -> StepReport:
        """The numbers of the step, averaged over all processes."""
        if self.copied is not None:
            self.copied.synchronize()
        return StepReport(*self.numbers.tolist())

    @property
    def finite(self) -> bool:
        """Whether all losses and gradients were finite on every process; if not, nothing was updated."""
        return self.report.nonfinite == 0.0

    @property
    def label_loss(self) -> float:
        """Mean loss of the first subnet against the labels, over all processes."""
        return self.report.loss

    @property
    def signal(self) -> int | None:
        """A signal that one of the processes has received, or None."""
        return SIGTERM if self.report.terminated else SIGINT if self.report.interrupted else None


def draw_archs(space: Space[Any], seed: int, step: int, random_subnets: int = 2) -> dict[str, Arch]:
    """The archs of one step by name: the largest, uniform random ones, the smallest. One if the space has only one.

    Source: docs/specification.md, section 6; Yu & Huang, 2019, arXiv:1903.05134, section 3.1.
    """
    if space.smallest == space.largest:
        return {"largest": space.largest}
    rng = generator(seed, "archs", step)
    drawn = {f"random-{i + 1}": space.sample(rng) for i in range(random_subnets)}
    return {"largest": space.largest, **drawn, "smallest": space.smallest}


def label_loss_of(config: SandwichConfig) -> Loss:
    """The label-smoothed cross-entropy of the config."""
    return LabelSmoothedCrossEntropy(config.label_smoothing)


def distillation_loss(config: SandwichConfig) -> Loss | None:
    """The distillation loss of the config; None if the subnets learn from the labels."""
    if config.loss == "adaptive_alpha":
        return AdaptiveAlphaDivergence(config.alpha_min, config.alpha_max, config.clip)
    if config.loss == "fixed_alpha":
        return AlphaDivergence(config.alpha_max, config.clip)
    return KLDistillation() if config.loss == "kl" else None


@dataclass(frozen=True)
class SandwichStep:
    """Updates a net with the gradients of several subnets.

    Attributes:
        net: The supernet, in training mode.
        optimizer: Optimiser of the parameters of ``net``.
        gradients: The gradients of the parameters.
        losses: The losses of the subnets.
        ranks: The processes that share each batch.
        clip_value: Bound of every entry of the averaged gradient; None disables clipping.
        bf16: Run forward passes in bfloat16 (autocast).
        bf16_gradients: Average gradients in bfloat16.
        compiled: The subnets that are compiled, see `compile_recurring`; the others run eagerly.
        average: The moving average of the weights; None disables it.
        graphs: Runs the passes of the largest and the smallest subnet as CUDA graphs, and those of all subnets in a
            space of at most `MOST_GRAPHS` archs; None disables it.

    Raises:
        ValueError: The optimiser is not fused; only a fused one can skip a step without waiting for the device.
    """

    net: Network
    optimizer: torch.optim.Optimizer
    gradients: Gradients
    losses: Losses
    ranks: Ranks
    clip_value: float | None = None
    bf16: bool = False
    bf16_gradients: bool = False
    compiled: Mapping[Arch, Callable[..., Tensor]] = field(default_factory=dict)
    average: WeightAverage | None = None
    graphs: GraphedPasses | None = None

    def __post_init__(self) -> None:
        """Checks the optimiser."""
        if not self.optimizer.defaults.get("fused"):
            raise ValueError("SandwichStep requires a fused optimiser: pass fused=True to it")

    def __call__(
        self,
        micro_batches: Sequence[MicroBatch],
        archs: Mapping[str, Arch],
        *,
        received: Collection[int] = (),
        seed_of: Callable[[int], int] | None = None,
        resolution: int | None = None,
    ) -> StepOutcome:
        """One update. Losses are means over the micro-batches; gradients are added over the subnets.

        On a GPU the step does not wait for the device. If a loss or a gradient is not finite on any process, weights,
        momentum, statistics and average stay as they are.

        Args:
            micro_batches: The share of this process of the batch, in one or more equal micro-batches.
            archs: The subnets by name, the teacher (the largest arch of the net) first.
            received: Signals that this process has received; they are shared with all processes.
            seed_of: Returns torch's seed for the dropout of a micro-batch, given its number over all processes.
            resolution: Largest resolution of images and subnets; None for no limit.

        Source: docs/specification.md, section 6; Wang et al., 2021, arXiv:2102.07954, algorithm 1.
        """
        self.gradients.zero()
        before = [] if self.net.supernet else [(buffer, buffer.clone()) for buffer in self.net.buffers()]
        outcomes, label_losses, count = list[list[SubnetOutcome]](), list[Tensor](), len(micro_batches)
        few = self.net.space.size <= MOST_GRAPHS
        for i, (images, labels) in enumerate(micro_batches):
            if seed_of is not None:
                torch.manual_seed(seed_of(self.ranks.rank * count + i))
            images = images if resolution is None else shrink_to(images, resolution)
            visited: list[SubnetOutcome] = []
            for name, arch in archs.items():
                first = not visited
                one_pass = partial(self._one_pass, arch, first=first, resolution=resolution, share=1.0 / count)
                target = labels if first or self.losses.distillation is None else visited[0].logits
                if self.graphs is not None and (few or arch in recurring_archs(self.net)):
                    passed = self.graphs((arch, first, count), resolution, one_pass, images, target)
                else:
                    passed = one_pass(images, target)
                logits, loss, label_loss = passed
                if first:
                    label_losses.append(label_loss)
                visited.append(SubnetOutcome(name, arch, logits, loss))
            outcomes.append(visited)
        losses = torch.stack([outcome.loss for visited in outcomes for outcome in visited])
        report = self.gradients.average(
            self.ranks, torch.stack(label_losses).mean(), losses.isfinite().all(),
            interrupted=SIGINT in received, terminated=SIGTERM in received, bf16=self.bf16_gradients,
        )  # fmt: skip
        if self.clip_value is not None:
            self.gradients.clip(self.clip_value)
        nonfinite = report[1]
        self.optimizer.found_inf = nonfinite  # type: ignore[attr-defined]  # If it is 1, the update changes nothing.
        self.optimizer.step()
        for statistic, value in before:
            statistic.copy_(torch.where(nonfinite > 0, value, statistic))
        if self.average is not None:
            self.average.update(self.net, 1.0 - nonfinite)
        return _outcome(outcomes, report)

    def _one_pass(
        self, arch: Arch, images: Tensor, target: Tensor, *, first: bool, resolution: int | None, share: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A forward and a backward pass of a subnet; ``share`` is that of the micro-batch in the gradients.

        Returns:
            Logits, the loss, and for the first subnet its loss against the labels (otherwise the loss), detached.
        """
        with adding_to_gradients():
            logits = self.forward(images, arch, resolution)
        if first or self.losses.distillation is None:
            label_loss = self.losses.label(logits, target)
            loss = self._with_teacher(label_loss, logits, images) if first else label_loss
        else:
            loss = label_loss = self.losses.distillation(logits, target)
        torch.autograd.backward(loss * share)
        return logits.detach(), loss.detach(), label_loss.detach()

    def forward(self, images: Tensor, arch: Arch, resolution: int | None = None) -> Tensor:
        """Logits of a subnet in the precision of the step, at no larger a resolution than ``resolution``."""
        resize = resolution is None or arch.resolution <= resolution
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            subnet: Callable[..., Tensor] = self.compiled.get(arch, partial(self.net, arch=arch))
            return subnet(images, resize=resize)

    def _with_teacher(self, label_loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """The loss of the first subnet: against the labels, and against the external teacher if there is one."""
        if self.losses.teacher is None:
            return label_loss
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            target = self.losses.teacher(images)
        share = self.losses.teacher_share
        return (1.0 - share) * label_loss + share * self.losses.teacher_distance(logits, target)


def _outcome(micro_batches: list[list[SubnetOutcome]], report: Tensor) -> StepOutcome:
    """The outcome of a step; on a GPU, its report is copied to the CPU as soon as it is computed."""
    if not report.is_cuda:
        return StepOutcome(micro_batches, report)
    numbers = torch.empty(report.shape, dtype=report.dtype, pin_memory=True).copy_(report, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()
    return StepOutcome(micro_batches, numbers, copied)


def recurring_archs(net: Network) -> tuple[Arch, Arch]:
    """The subnets of every step: the largest and the smallest."""
    return net.arch, net.space.smallest


def compile_recurring(net: Network) -> dict[Arch, Callable[..., Tensor]]:
    """Applies torch.compile to the largest and the smallest subnet; each is compiled when it first runs.

    Random subnets run eagerly, because compiling each of them takes longer than its step.
    """
    return {arch: torch.compile(partial(net, arch=arch), dynamic=False) for arch in recurring_archs(net)}


@torch.no_grad()
def subnet_metrics(
    outcomes: Sequence[SubnetOutcome], labels: Tensor, config: SandwichConfig
) -> dict[str, dict[str, Tensor]]:
    """Metrics of each subnet by name: loss, accuracy, and for students the divergence from the teacher.

    ``divergence_alpha_min`` and ``divergence_alpha_max`` are the divergences that the adaptive loss compares (means
    over the batch), and ``chose_alpha_min`` is the share of samples for which the one at the lower alpha is larger.
    They are easier to interpret than the training loss, a surrogate that may be negative.

    With multi-label images, ``label_accuracy`` is the share of correct labels (yes or no), and divergences are means
    over images and labels.
    """
    measure = AdaptiveAlphaDivergence(config.alpha_min, config.alpha_max, config.clip)
    metrics = {}
    for outcome in outcomes:
        if labels.dim() == 1:
            accuracy, hits = "accuracy", outcome.logits.argmax(1) == labels
        else:
            accuracy, hits = "label_accuracy", (outcome.logits > 0) == labels.bool()
        figures = {"loss": outcome.loss, accuracy: hits.float().mean()}
        if outcome is not outcomes[0]:
            pair = (outcome.logits, outcomes[0].logits)
            terms = measure.terms(*(pair if labels.dim() == 1 else map(per_label, pair)))
            figures["divergence_alpha_min"] = terms.divergence_min.mean()
            figures["divergence_alpha_max"] = terms.divergence_max.mean()
            figures["chose_alpha_min"] = terms.chose_min.float().mean()
        metrics[outcome.name] = figures
    return metrics


def mean_metrics(metrics: Sequence[Mapping[str, Mapping[str, Tensor]]], ranks: Ranks) -> dict[str, dict[str, float]]:
    """The mean of `subnet_metrics` over micro-batches and processes, in one transfer from the device."""
    keys = [(name, figure) for name, figures in metrics[0].items() for figure in figures]
    values = torch.stack([torch.stack([each[name][figure].float() for name, figure in keys]) for each in metrics])
    means = (ranks.sum_(values.mean(0)) / ranks.world_size).tolist()
    result: dict[str, dict[str, float]] = {}
    for (name, figure), value in zip(keys, means, strict=True):
        result.setdefault(name, {})[figure] = value
    return result
