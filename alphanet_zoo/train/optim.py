"""Optimiser, learning-rate and resolution schedules, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from alphanet_zoo.train.config import OptimConfig


def learning_rate(step: int, *, peak: float, total_steps: int, warmup_steps: int) -> float:
    """The learning rate of one step: a cosine over the whole run, times a linear warm-up that starts at 0.001.

    Args:
        step: The step, from 0.
        peak: Start of the cosine.
        total_steps: Steps of the schedule; the rate is 0 afterwards.
        warmup_steps: Steps of the warm-up; 0 disables it.

    Source: docs/specification.md, section 6.
    """
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(step / total_steps, 1.0)))
    warmup = 0.001 + 0.999 * step / warmup_steps if step < warmup_steps else 1.0
    return peak * cosine * warmup


def peak_learning_rate(config: OptimConfig, batch_size: int) -> float:
    """The peak learning rate for ``batch_size`` images over all processes, proportional to ``config.lr_batch``.

    Source: docs/specification.md, section 6 (0.1 for 256 images).
    """
    return config.lr if config.lr_batch is None else config.lr * batch_size / config.lr_batch


def resolution_phases(schedule: Sequence[tuple[float, int]], total_steps: int) -> list[tuple[int, int]]:
    """The phases of progressive resolution, as (first step of the next phase, largest resolution).

    Args:
        schedule: Pairs of (share of the steps, largest resolution); the shares sum to 1.
        total_steps: Steps of the schedule, at which the last phase ends.

    Source: Tan & Le, 2021, arXiv:2104.00298, section 4.2, for a single network.
    """
    ends = [round(total_steps * sum(share for share, _ in schedule[: i + 1])) for i in range(len(schedule))]
    return [(end, resolution) for end, (_, resolution) in zip(ends, schedule, strict=True)]


def largest_resolution(step: int, schedule: Sequence[tuple[float, int]], total_steps: int) -> int | None:
    """The largest resolution of a subnet in one step (from 0); None without a schedule.

    Other arguments as `resolution_phases`.
    """
    for end, resolution in resolution_phases(schedule, total_steps):
        if step < end:
            return resolution
    return schedule[-1][1] if schedule else None


def make_optimizer(net: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """Fused SGD with Nesterov momentum; weight decay on the weights of convolutions and linear layers only.

    The initial learning rate is 0; set it to `learning_rate` before every step.

    Source: docs/specification.md, section 6.
    """
    decayed = [p for p in net.parameters() if p.dim() > 1]
    plain = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.momentum > 0.0, fused=True)


def average_weights(net: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of all parameters and buffers of ``net``, starting from their current values.

    Integer buffers (counts of batches) are copied, not averaged.

    Args:
        net: The net.
        decay: Share of the old average that one update keeps.
    """
    ema = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
        """Updates tensors of one type."""
        if averages[0].is_floating_point():
            ema(averages, values, count)
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)

    average = AveragedModel(net, multi_avg_fn=update, use_buffers=True)
    average.n_averaged.fill_(1)  # The first update must average too, not copy: resumed runs then need no count.
    return average
