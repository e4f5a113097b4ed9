"""Setting the batch-norm statistics of a subnet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from alphanet_zoo.nn.config import CalibrationRecord
from alphanet_zoo.nn.model import AlphaNet


def calibrate(net: AlphaNet, batches: Iterable[Tensor]) -> AlphaNet:
    """Sets the running statistics of a static net to their plain average over some batches of images.

    Every batch counts alike (PyTorch's cumulative average, unbiased variance); dropout and drop-connect are off. The
    published evaluation takes 64 batches of 256 training images, the search 32 batches.

    Args:
        net: A static net.
        batches: Normalised training images, ``(N, 3, H, W)`` each, any size.

    Returns:
        ``net`` itself, in eval mode, its ``calibration`` the record of what was averaged.

    Raises:
        ValueError: ``net`` is a supernet, there is no batch, or a batch is no such tensor. The statistics are then
            unusable and ``net.calibration`` is None.

    Source: docs/specification.md, section 3, "Batch norm".
    """
    if net.supernet:
        raise ValueError("a supernet has no statistics of its own; extract a subnet and calibrate that")
    layers = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    net.eval()
    net.calibration = None
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        record = _average(net, batches)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        net.eval()
    net.calibration = record
    return net


@torch.no_grad()
def _average(net: AlphaNet, batches: Iterable[Tensor]) -> CalibrationRecord:
    """Runs the batches through ``net``, whose batch norms average their statistics."""
    device = next(net.parameters()).device
    digest, images, count = hashlib.sha256(), 0, 0
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.dim() != 4 or batch.shape[1] != 3:
            found = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise ValueError(f"a calibration batch is {found}; give image tensors of shape (N, 3, H, W)")
        digest.update(batch.detach().cpu().contiguous().numpy().tobytes())
        net(batch.to(device))
        images, count = images + batch.shape[0], count + 1
    if not count:
        raise ValueError("there are no calibration batches; give at least one")
    return CalibrationRecord(images=images, batches=count, digest=digest.hexdigest())
