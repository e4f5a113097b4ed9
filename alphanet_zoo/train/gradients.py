"""All gradients of a net in one stretch of memory: zeroed, summed over processes, checked and clipped as one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from alphanet_zoo.train.distributed import Ranks


class Report(NamedTuple):
    """What a process has to say of its step besides its gradients; numbers that can be averaged.

    Attributes:
        loss: Its mean loss of the largest subnet against the labels.
        faulty: 1 where one of its losses is not finite.
        interrupted: 1 where it has received SIGINT.
        terminated: 1 where it has received SIGTERM.
    """

    loss: float
    faulty: float
    interrupted: float
    terminated: float


class Gradients:
    """The gradients of a net's parameters as views of one buffer, with room behind them for a `Report`.

    Backward passes add to the views in place. Parameters that no subnet of a step used have zeros there: they are
    averaged, decayed and moved by momentum like the others, on every process alike.

    Attributes:
        flat: ``(parameters,)`` float32, all gradients.
    """

    def __init__(self, net: nn.Module) -> None:
        """Gives every parameter its view, in the parameter's own memory layout."""
        parameters = list(net.parameters())
        size = sum(parameter.numel() for parameter in parameters)
        self._buffer = torch.zeros(size + len(Report._fields), device=parameters[0].device)
        self.flat, self._report = self._buffer[:size], self._buffer[size:]
        offset = 0
        for parameter in parameters:
            parameter.grad = self.flat.as_strided(parameter.shape, parameter.stride(), offset)
            offset += parameter.numel()

    def zero(self) -> None:
        """Forgets the last step."""
        self._buffer.zero_()

    def average(self, ranks: Ranks, report: Report, *, bf16: bool = False) -> Report:
        """Averages gradients and report over all processes, in one message.

        Args:
            ranks: The processes.
            report: This process's.
            bf16: Send bfloat16.
        """
        if ranks.world_size == 1:
            return report
        self._report.copy_(torch.tensor(report))
        if bf16:
            self._buffer.copy_(ranks.sum_(self._buffer.bfloat16()))
        else:
            ranks.sum_(self._buffer)
        self._buffer /= ranks.world_size
        return Report(*self._report.tolist())

    def finite(self) -> bool:
        """Whether every entry is finite (of the average: on every process alike)."""
        return bool(self.flat.isfinite().all())

    def clip(self, value: float) -> None:
        """Clips every entry to a magnitude of ``value``."""
        self.flat.clamp_(-value, value)
