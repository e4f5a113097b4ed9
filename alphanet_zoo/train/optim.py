"""Optimiser, learning-rate and resolution schedules, and the moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from alphanet_zoo.train.config import OptimConfig


def learning_rate(step: int, *, peak: float, total_steps: int, warmup_steps: int, linear: bool = False) -> float:
    """The learning rate of one step: a decay to 0 over the whole run, times a linear warm-up that starts at 0.001.

    Args:
        step: The step, from 0.
        peak: Start of the decay.
        total_steps: Steps of the schedule; the rate is 0 afterwards.
        warmup_steps: Steps of the warm-up; 0 disables it.
        linear: The decay is linear; otherwise it is a cosine.

    Source: docs/specification.md, section 6.
    """
    done = min(step / total_steps, 1.0)
    decay = 1.0 - done if linear else 0.5 * (1.0 + math.cos(math.pi * done))
    warmup = 0.001 + 0.999 * step / warmup_steps if step < warmup_steps else 1.0
    return peak * decay * warmup


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

    The initial learning rate is 0; set it to `learning_rate` before every step. The momentum starts at zero, so that
    the first step too can be skipped by the optimiser's ``found_inf``.

    Source: docs/specification.md, section 6.
    """
    decayed = [p for p in net.parameters() if p.dim() > 1]
    plain = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.momentum > 0.0, fused=True)
    set_momentum(optimizer, net, {})
    return optimizer


def set_momentum(optimizer: torch.optim.SGD, net: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Sets the momentum of the parameters of ``net`` by name; that of the others becomes zero."""
    optimizer.state.clear()
    if optimizer.defaults["momentum"]:
        for name, parameter in net.named_parameters():
            # In the memory layout of the parameter, as the fused update requires.
            buffer = torch.zeros_like(parameter)
            if name in buffers:
                buffer.copy_(buffers[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer


class WeightAverage:
    """An exponential moving average of all parameters and buffers of a net, starting from their current values.

    Integer buffers (counts of batches) are copied, not averaged. Unlike `torch.optim.swa_utils.AveragedModel`, an
    update does not wait for a GPU.

    Args:
        net: The net.
        decay: Share of the old average that one update keeps.

    Attributes:
        module: A copy of the net with the average as its weights.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        """Copies the net."""
        self.module = copy.deepcopy(net)
        self._decay = decay

    @torch.no_grad()
    def update(self, net: nn.Module, applied: Tensor | float = 1.0) -> None:
        """Moves the average towards ``net``.

        Args:
            net: The net that is averaged.
            applied: 1, or 0 to change nothing; a scalar on the device of ``net``.
        """
        pairs = list(zip(_tensors(self.module), _tensors(net), strict=True))
        averages, values = zip(*((a, v) for a, v in pairs if a.is_floating_point()), strict=True)
        moves = torch._foreach_sub(values, averages)
        torch._foreach_mul_(moves, torch.as_tensor(applied, device=moves[0].device) * (1.0 - self._decay))
        torch._foreach_add_(averages, moves)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(net: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a net."""
    return [*net.parameters(), *net.buffers()]
