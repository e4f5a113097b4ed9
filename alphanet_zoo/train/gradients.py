"""All gradients of a net in one buffer: zeroed, averaged over processes, checked and clipped as a whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from alphanet_zoo.train.distributed import Ranks


class StepReport(NamedTuple):
    """Numbers that a process shares besides its gradients; averaged over all processes.

    Attributes:
        loss: Mean loss of the largest subnet against the labels.
        nonfinite: 1 if one of the losses is not finite.
        interrupted: 1 if the process has received SIGINT.
        terminated: 1 if the process has received SIGTERM.
    """

    loss: float
    nonfinite: float
    interrupted: float
    terminated: float


class Gradients:
    """The gradients of a net's parameters as views of one buffer, followed by the numbers of a `StepReport`.

    Backward passes add to the views in place. The gradient of a parameter that no subnet of a step used is zero; the
    parameter is still decayed and moved by momentum, in the same way on every process.

    Attributes:
        flat: ``(parameters,)`` float32, all gradients.
    """

    def __init__(self, net: nn.Module) -> None:
        """Sets the ``grad`` of every parameter to its view, in the memory layout of the parameter."""
        parameters = list(net.parameters())
        size = sum(parameter.numel() for parameter in parameters)
        self._buffer = torch.zeros(size + len(StepReport._fields), device=parameters[0].device)
        self.flat, self._report = self._buffer[:size], self._buffer[size:]
        offset = 0
        for parameter in parameters:
            parameter.grad = self.flat.as_strided(parameter.shape, parameter.stride(), offset)
            offset += parameter.numel()

    def zero(self) -> None:
        """Sets all gradients to zero."""
        self._buffer.zero_()

    def average(self, ranks: Ranks, report: StepReport, *, bf16: bool = False) -> StepReport:
        """Averages gradients and report over all processes, in one message.

        Args:
            ranks: The processes.
            report: The report of this process.
            bf16: Send bfloat16.

        Returns:
            The averaged report.
        """
        if ranks.world_size == 1:
            return report
        self._report.copy_(torch.tensor(report))
        if bf16:
            self._buffer.copy_(ranks.sum_(self._buffer.bfloat16()))
        else:
            ranks.sum_(self._buffer)
        self._buffer /= ranks.world_size
        return StepReport(*self._report.tolist())

    def finite(self) -> bool:
        """Whether every entry is finite. After `average` the result is the same on every process."""
        return bool(self.flat.isfinite().all())

    def clip(self, value: float) -> None:
        """Clips every entry to [-value, value]."""
        self.flat.clamp_(-value, value)
