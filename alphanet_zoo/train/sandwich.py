"""One training step by the sandwich rule, from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from signal import SIGINT, SIGTERM

import torch
from torch import Tensor

from alphanet_zoo.data.draws import generator
from alphanet_zoo.nn.layers import shrink_to
from alphanet_zoo.nn.losses import (
    AdaptiveAlphaDivergence,
    AlphaDivergence,
    KLDistillation,
    LabelSmoothedCrossEntropy,
    Loss,
    per_label,
)
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.gradients import Gradients, Report
from alphanet_zoo.train.sections import SandwichConfig

Part = tuple[Tensor, Tensor]
"""Images ``(N, 3, H, W)`` and their labels: ``(N,)`` classes, or ``(N, labels)`` of 0 and 1."""


@dataclass(frozen=True)
class SubnetOutcome:
    """What one subnet did with a part of a batch.

    Attributes:
        name: 'largest', 'random-1', ... or 'smallest'.
        arch: Its architecture.
        logits: ``(N, classes)``, detached, before the update.
        loss: A detached scalar.
    """

    name: str
    arch: ArchSpec
    logits: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Losses:
    """What the subnets learn from.

    Attributes:
        label: ``(logits, labels) -> scalar``, for the first subnet.
        distillation: ``(student logits, teacher logits) -> scalar``, for the others; None: ``label``.
        teacher: A trained net in eval mode that the first subnet learns from too; None: labels alone.
        teacher_share: Its weight; the labels have the rest.
        teacher_distance: ``(logits, teacher logits) -> scalar``, how the first subnet learns from it.
    """

    label: Loss
    distillation: Loss | None = None
    teacher: AlphaNet | None = None
    teacher_share: float = 0.5
    teacher_distance: Loss = field(default_factory=KLDistillation)


@dataclass(frozen=True)
class StepOutcome:
    """What a step did.

    Attributes:
        parts: The outcome of each subnet on each part of this process's share of the batch.
        finite: Whether the losses and gradients of all processes were finite; otherwise nothing was updated.
        label_loss: Mean loss of the first subnet against the labels, over all processes.
        signal: The signal that some process has received; None for none.
    """

    parts: list[list[SubnetOutcome]]
    finite: bool
    label_loss: float
    signal: int | None


def draw_archs(space: SearchSpace, seed: int, step: int, random_subnets: int = 2) -> dict[str, ArchSpec]:
    """The archs of one step by name: the largest, some uniform random ones, the smallest.

    Source: docs/specification.md, section 6; Yu & Huang, 2019, arXiv:1903.05134, section 3.1.
    """
    rng = generator(seed, "archs", step)
    drawn = {f"random-{i + 1}": space.sample(rng) for i in range(random_subnets)}
    return {"largest": space.largest, **drawn, "smallest": space.smallest}


def label_loss_of(config: SandwichConfig) -> Loss:
    """The label-smoothed cross-entropy of the config."""
    return LabelSmoothedCrossEntropy(config.label_smoothing)


def distillation_loss(config: SandwichConfig) -> Loss | None:
    """The loss ``(student logits, teacher logits) -> scalar`` that the config names; None: learn from the labels."""
    if config.loss == "adaptive_alpha":
        return AdaptiveAlphaDivergence(config.alpha_min, config.alpha_max, config.clip)
    if config.loss == "fixed_alpha":
        return AlphaDivergence(config.alpha_max, config.clip)
    return KLDistillation() if config.loss == "kl" else None


@dataclass(frozen=True)
class SandwichStep:
    """Makes updates of a net from a few of its subnets.

    Attributes:
        net: The supernet, in training mode.
        optimizer: Over its parameters.
        gradients: Their gradients.
        losses: What the subnets learn from.
        ranks: The processes that share each batch.
        clip_value: Bound of every entry of the averaged gradient; None clips nothing.
        bf16: Forward passes in bfloat16 (autocast).
        bf16_gradients: Send gradients as bfloat16.
        compiled: The subnets that are compiled, see `compile_recurring`; the others run eagerly.
    """

    net: AlphaNet
    optimizer: torch.optim.Optimizer
    gradients: Gradients
    losses: Losses
    ranks: Ranks
    clip_value: float | None = None
    bf16: bool = False
    bf16_gradients: bool = False
    compiled: Mapping[ArchSpec, Callable[..., Tensor]] = field(default_factory=dict)

    def __call__(
        self,
        parts: Sequence[Part],
        archs: Mapping[str, ArchSpec],
        *,
        received: Collection[int] = (),
        seed_of: Callable[[int], int] | None = None,
        resolution: int | None = None,
    ) -> StepOutcome:
        """One update. A process's loss is the mean over its parts; gradients are added over the subnets.

        Args:
            parts: This process's share of the batch, in one or more equal parts.
            archs: The subnets by name, the teacher (the net's own arch) first.
            received: Signals that this process has received; all processes hear of them.
            seed_of: Torch's seed for the dropout of each part, by its number over all processes.
            resolution: No subnet runs at a larger one, and larger images are resized to it first; None: no such cap.

        Source: docs/specification.md, section 6; Wang et al., 2021, arXiv:2102.07954, algorithm 1.
        """
        self.gradients.zero()
        outcomes, label_loss = [], 0.0
        for i, part in enumerate(parts):
            if seed_of is not None:
                torch.manual_seed(seed_of(self.ranks.rank * len(parts) + i))
            images = part[0] if resolution is None else shrink_to(part[0], resolution)
            visited, loss = self._visit((images, part[1]), archs, 1.0 / len(parts), resolution)
            outcomes.append(visited)
            label_loss += float(loss) / len(parts)
        faulty = not bool(torch.stack([o.loss for visited in outcomes for o in visited]).isfinite().all())
        own = Report(label_loss, faulty, SIGINT in received, SIGTERM in received)
        report = self.gradients.average(self.ranks, own, bf16=self.bf16_gradients)
        signal = SIGTERM if report.terminated else SIGINT if report.interrupted else None
        finite = not report.faulty and math.isfinite(report.loss) and self.gradients.finite()
        if finite:
            if self.clip_value is not None:
                self.gradients.clip(self.clip_value)
            self.optimizer.step()
        return StepOutcome(outcomes, finite, report.loss, signal)

    def _visit(
        self, part: Part, archs: Mapping[str, ArchSpec], weight: float, resolution: int | None
    ) -> tuple[list[SubnetOutcome], Tensor]:
        """Adds the gradients of ``weight`` times each subnet's loss; gives the outcomes and the first label loss."""
        images, labels = part
        outcomes: list[SubnetOutcome] = []
        for name, arch in archs.items():
            logits = self.forward(images, arch, resolution)
            if not outcomes:
                label_loss = self.losses.label(logits, labels)
                loss = self._with_teacher(label_loss, logits, images)
            elif self.losses.distillation is not None:
                loss = self.losses.distillation(logits, outcomes[0].logits)
            else:
                loss = self.losses.label(logits, labels)
            torch.autograd.backward(loss * weight)
            outcomes.append(SubnetOutcome(name, arch, logits.detach(), loss.detach()))
        return outcomes, label_loss.detach()

    def forward(self, images: Tensor, arch: ArchSpec, resolution: int | None = None) -> Tensor:
        """Logits of a subnet, in the step's precision; ``resolution`` caps the one that it runs at."""
        resize = resolution is None or arch.resolution <= resolution
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            subnet: Callable[..., Tensor] = self.compiled.get(arch, partial(self.net, arch=arch))
            return subnet(images, resize=resize)

    def _with_teacher(self, label_loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """The first subnet's loss: against the labels, and against the external teacher where there is one."""
        if self.losses.teacher is None:
            return label_loss
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            target = self.losses.teacher(images)
        share = self.losses.teacher_share
        return (1.0 - share) * label_loss + share * self.losses.teacher_distance(logits, target)


def compile_recurring(net: AlphaNet) -> dict[ArchSpec, Callable[..., Tensor]]:
    """torch.compile of the two subnets that every step visits; each is compiled when it first runs.

    Random subnets are not: each would be compiled anew, for longer than its step takes.
    """
    archs = (net.arch, net.space.smallest)
    return {arch: torch.compile(partial(net, arch=arch), dynamic=False) for arch in archs}


@torch.no_grad()
def subnet_metrics(
    outcomes: Sequence[SubnetOutcome], labels: Tensor, config: SandwichConfig
) -> dict[str, dict[str, float]]:
    """Figures of each subnet by name: loss, accuracy, and for students their distance from the teacher.

    With several labels an image, `label_accuracy` is the share of all labels that are told right (yes or no), and the
    divergences are means over the labels too.

    The surrogate that is learnt from may be negative and says little. ``divergence_alpha_min`` and
    ``divergence_alpha_max`` are the divergences that the adaptive loss compares (means over the batch), and
    ``chose_alpha_min`` is the share of samples in which the one at the lower alpha is larger.
    """
    measure = AdaptiveAlphaDivergence(config.alpha_min, config.alpha_max, config.clip)
    metrics = {}
    for outcome in outcomes:
        if labels.dim() == 1:
            accuracy, hits = "accuracy", outcome.logits.argmax(1) == labels
        else:
            accuracy, hits = "label_accuracy", (outcome.logits > 0) == labels.bool()
        figures = {"loss": float(outcome.loss), accuracy: float(hits.float().mean())}
        if outcome is not outcomes[0]:
            pair = (outcome.logits, outcomes[0].logits)
            terms = measure.terms(*(pair if labels.dim() == 1 else map(per_label, pair)))
            figures["divergence_alpha_min"] = float(terms.divergence_min.mean())
            figures["divergence_alpha_max"] = float(terms.divergence_max.mean())
            figures["chose_alpha_min"] = float(terms.chose_min.float().mean())
        metrics[outcome.name] = figures
    return metrics


def mean_metrics(parts: Sequence[Mapping[str, Mapping[str, float]]], ranks: Ranks) -> dict[str, dict[str, float]]:
    """The mean of `subnet_metrics` over the parts of a process and over all processes."""
    keys = [(name, figure) for name, figures in parts[0].items() for figure in figures]
    means = ranks.mean([sum(part[name][figure] for part in parts) / len(parts) for name, figure in keys])
    result: dict[str, dict[str, float]] = {}
    for (name, figure), value in zip(keys, means, strict=True):
        result.setdefault(name, {})[figure] = value
    return result
