"""Batch norm over a batch that several processes share, on any device and for sliced weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphanet_zoo.nn.layers import SlicedBatchNorm2d, sliced_norm

Sum = Callable[[Tensor], Tensor]
"""Replaces a tensor by its sum over all processes, and gives it; gradients do not flow through it."""


class SyncedBatchNorm2d(SlicedBatchNorm2d):
    """A batch norm whose training statistics are those of all processes' samples; in eval mode a plain one.

    Every process must visit the same layers in the same order, forward and backward, with batches of one shape. In
    place of a supernet's layer it keeps no running statistics; in place of torch's own it does.

    Args:
        layer: The batch norm whose parameters and buffers it takes over, as they are.
        sum_: Adds up over the processes.
        processes: How many there are.
    """

    def __init__(self, layer: nn.BatchNorm2d, sum_: Sum, processes: int) -> None:
        """Shares the tensors of ``layer``."""
        super().__init__(layer.num_features, layer.eps, layer.momentum, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.tracks = not isinstance(layer, SlicedBatchNorm2d)
        self.train(layer.training)
        self._sum, self._processes = sum_, processes

    def forward(self, x: Tensor, *, swish: bool = False) -> Tensor:
        """As `SlicedBatchNorm2d`; keeps the running statistics of all samples if `tracks`."""
        if not self.training:
            return super().forward(x, swish=swish)
        if not self.tracks:
            return sliced_norm(self, x, swish=swish)
        y, mean, var = self._normalised(x, self.weight, self.bias)
        self._track(mean, var, x.numel() // x.shape[1] * self._processes)
        return F.silu(y) if swish else y

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``x`` ``(N, C, H, W)`` normalised by all samples' statistics, with ``weight`` and ``bias`` ``(C,)``."""
        return self._normalised(x, weight, bias)[0]

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Adds mean and biased variance ``(C,)`` of ``count`` pixels; without a momentum every batch counts alike."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * (count / (count - 1)), share)

    def _normalised(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised map, and mean and biased variance ``(C,)`` of all samples."""
        return cast(
            tuple[Tensor, Tensor, Tensor],
            _Normalise.apply(x, weight, bias, self.eps, self._sum, self._processes),
        )


def synchronise(net: nn.Module, sum_: Sum, processes: int) -> None:
    """Replaces every batch norm in ``net`` by a synchronised one over the same tensors.

    Parameters, buffers and their names stay; nets extracted from ``net`` have plain ones. Arguments as
    `SyncedBatchNorm2d`.
    """
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SyncedBatchNorm2d(child, sum_, processes))


class _Normalise(torch.autograd.Function):
    """Batch norm whose means, of the map and of the gradient, are over all processes: one message each way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, sum_: Sum, processes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        # Mean and mean square; in double precision, because the variance is the small difference of large numbers.
        own = torch.stack((mean.double(), var.double() + mean.double() ** 2))
        mean, square = sum_(own) / processes
        mean, var = mean.float(), (square - mean**2).float()
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.sum_, ctx.processes = sum_, processes
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        gradient, shape = gradients[0].float(), (1, -1, 1, 1)
        normalised = (x.float() - mean.view(shape)) * scale.view(shape)
        own = torch.stack((gradient.sum((0, 2, 3)), (gradient * normalised).sum((0, 2, 3))))
        count = x.numel() // x.shape[1] * ctx.processes
        means = ctx.sum_(own.clone()) / count
        inner = gradient - means[0].view(shape) - normalised * means[1].view(shape)
        return (inner * (weight * scale).view(shape)).to(x.dtype), own[1], own[0], None, None, None
