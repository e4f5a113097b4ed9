"""One training step by the sandwich rule, from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphanet_zoo.nn.losses import (
    AdaptiveAlphaDivergence,
    AlphaDivergence,
    KLDistillation,
    LabelSmoothedCrossEntropy,
    Loss,
)
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.train.config import SandwichConfig
from alphanet_zoo.train.draws import generator


@dataclass(frozen=True)
class SubnetOutcome:
    """What one subnet did in a step.

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


def draw_archs(space: SearchSpace, seed: int, step: int, random_subnets: int = 2) -> dict[str, ArchSpec]:
    """The archs of one step by name: the largest, some uniform random ones, the smallest.

    Source: SPEC section 6; Yu & Huang, 2019, arXiv:1903.05134, section 3.1.
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


def sandwich_step(
    net: AlphaNet,
    images: Tensor,
    labels: Tensor,
    archs: dict[str, ArchSpec],
    optimizer: torch.optim.Optimizer,
    *,
    label_loss: Loss,
    distillation: Loss | None,
    clip_value: float | None = None,
) -> list[SubnetOutcome]:
    """One update of the supernet from a few of its subnets.

    Args:
        net: The supernet, in training mode.
        images: ``(N, 3, H, W)``; every subnet resizes them to its own resolution.
        labels: ``(N,)`` class indices.
        archs: The subnets by name, the teacher (the net's own arch) first.
        optimizer: Over the net's parameters, its learning rate set.
        label_loss: ``(logits, labels) -> scalar``, for the teacher.
        distillation: ``(student logits, teacher logits) -> scalar``, for the others; None: ``label_loss``.
        clip_value: Bound of every entry of the summed gradient; None clips nothing.

    Returns:
        The outcome of each subnet, in the order of ``archs``.

    Source: SPEC section 6; Wang et al., 2021, arXiv:2102.07954, algorithm 1.
    """
    optimizer.zero_grad()
    outcomes: list[SubnetOutcome] = []
    for name, arch in archs.items():
        logits = net(images, arch)
        if outcomes and distillation is not None:
            loss = distillation(logits, outcomes[0].logits)
        else:
            loss = label_loss(logits, labels)
        torch.autograd.backward(loss)
        outcomes.append(SubnetOutcome(name, arch, logits.detach(), loss.detach()))
    for parameter in net.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if clip_value is not None:
        torch.nn.utils.clip_grad_value_(net.parameters(), clip_value)
    optimizer.step()
    return outcomes


@torch.no_grad()
def subnet_metrics(
    outcomes: Sequence[SubnetOutcome], labels: Tensor, config: SandwichConfig
) -> dict[str, dict[str, float]]:
    """Figures of each subnet by name: loss, accuracy, and for students their distance from the teacher.

    The surrogate that is learnt from may be negative and says little. ``divergence_alpha_min`` and
    ``divergence_alpha_max`` are the divergences that the adaptive loss compares (means over the batch), and
    ``chose_alpha_min`` is the share of samples in which the one at the lower alpha is larger.
    """
    measure = AdaptiveAlphaDivergence(config.alpha_min, config.alpha_max, config.clip)
    metrics = {}
    for outcome in outcomes:
        hits = (outcome.logits.argmax(1) == labels).float().mean()
        figures = {"loss": float(outcome.loss), "accuracy": float(hits)}
        if outcome is not outcomes[0]:
            terms = measure.terms(outcome.logits, outcomes[0].logits)
            figures["divergence_alpha_min"] = float(terms.divergence_min.mean())
            figures["divergence_alpha_max"] = float(terms.divergence_max.mean())
            figures["chose_alpha_min"] = float(terms.chose_min.float().mean())
        metrics[outcome.name] = figures
    return metrics
