"""Setting the batch-norm statistics of a subnet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from alphanet_zoo.nn.config import CalibrationRecord
from alphanet_zoo.nn.family import Network


def calibrate(net: Network, batches: Iterable[Tensor]) -> Network:
    """Sets the running statistics of a static net to their plain average over some batches of images.

    Every batch counts alike (PyTorch's cumulative average, unbiased variance); dropout and drop-connect are off. The
    published evaluation takes 64 batches of 256 training images, the search 32 batches. All batch norms are set,
    `torch.nn.SyncBatchNorm` and those of a replaced classifier included.

    Args:
        net: A static net.
        batches: Normalised training images, ``(N, 3, H, W)`` each, any size.

    Returns:
        ``net`` itself, in eval mode, its ``calibration`` the record of what was averaged.

    Raises:
        ValueError: ``net`` is a supernet, it has a batch norm without running statistics or none at all, there are no
            batches, a batch is not such a tensor, or a batch norm has not seen every batch. The statistics are then
            unset and ``net.calibration`` is None.

    Source: docs/specification.md, section 3, "Batch norm".
    """
    if net.supernet:
        raise ValueError("a supernet has no statistics of its own; extract a subnet and calibrate that")
    layers = {name: module for name, module in net.named_modules() if isinstance(module, _BatchNorm)}
    untracked = [name for name, layer in layers.items() if layer.num_batches_tracked is None]
    if untracked or not layers:
        what = f"{untracked[0]} keeps no running statistics" if untracked else "the net has no batch norm"
        raise ValueError(f"{what}, so there is nothing to calibrate")
    momenta = [layer.momentum for layer in layers.values()]
    net.eval()
    for layer in layers.values():
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    net.calibration = None
    try:
        record = _average(net, batches)
        _check_counts(layers, record["batches"])
    except BaseException:
        for layer in layers.values():
            layer.reset_running_stats()
        raise
    finally:
        for layer, momentum in zip(layers.values(), momenta, strict=True):
            layer.momentum = momentum
        net.eval()
    net.calibration = record
    return net


def _check_counts(layers: Mapping[str, _BatchNorm], batches: int) -> None:
    """Checks that every batch norm has averaged all batches."""
    for name, layer in layers.items():
        assert layer.num_batches_tracked is not None
        if int(layer.num_batches_tracked) != batches:
            raise ValueError(
                f"the batch norm {name} has averaged {int(layer.num_batches_tracked)} of {batches} batches"
            )


@torch.no_grad()
def _average(net: Network, batches: Iterable[Tensor]) -> CalibrationRecord:
    """Runs the batches through ``net``, whose batch norms average their statistics."""
    device = next(net.parameters()).device
    digest, images, count = hashlib.sha256(), 0, 0
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.dim() != 4 or batch.shape[1] != net.in_chans:
            found = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise ValueError(f"a calibration batch is {found}; pass image tensors of shape (N, {net.in_chans}, H, W)")
        digest.update(batch.detach().cpu().contiguous().numpy().tobytes())
        net(batch.to(device))
        images, count = images + batch.shape[0], count + 1
    if not count:
        raise ValueError("there are no calibration batches; pass at least one")
    return CalibrationRecord(images=images, batches=count, digest=digest.hexdigest())
