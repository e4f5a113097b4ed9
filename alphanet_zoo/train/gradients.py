"""All gradients of a net in one buffer: zeroed, averaged over processes, checked and clipped as a whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from alphanet_zoo.train.distributed import Ranks


class StepReport(NamedTuple):
    """Numbers of a step that all processes share; averaged over the processes.

    Attributes:
        loss: Mean loss of the largest subnet against the labels.
        nonfinite: Above 0 if a loss or a gradient is not finite on any process.
        interrupted: Above 0 if a process has received SIGINT.
        terminated: Above 0 if a process has received SIGTERM.
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

    def average(
        self, ranks: Ranks, loss: Tensor, finite: Tensor, *, interrupted: bool, terminated: bool, bf16: bool = False
    ) -> Tensor:
        """Averages gradients and report over all processes, in one message. Does not wait for the device.

        Args:
            ranks: The processes.
            loss: Scalar, the loss of this process for the report.
            finite: Scalar bool, whether all losses of this process are finite.
            interrupted: Whether this process has received SIGINT.
            terminated: Whether this process has received SIGTERM.
            bf16: Send bfloat16.

        Returns:
            ``(4,)`` float32 on the device, in the order of `StepReport`. ``nonfinite`` covers the averaged gradients
            and is the same on every process.
        """
        self._report[0].copy_(loss)
        self._report[1].copy_(~finite)
        self._report[2].fill_(float(interrupted))
        self._report[3].fill_(float(terminated))
        if ranks.world_size > 1:
            if bf16:
                self._buffer.copy_(ranks.sum_(self._buffer.bfloat16()))
            else:
                ranks.sum_(self._buffer)
            self._buffer /= ranks.world_size
        report = self._report.clone()
        report[1].copy_((self._report[1] > 0) | ~self.flat.isfinite().all() | ~self._report[0].isfinite())
        return report

    def clip(self, value: float) -> None:
        """Clips every entry to [-value, value]."""
        self.flat.clamp_(-value, value)
