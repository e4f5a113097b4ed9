"""Gradient checkpointing of blocks that contain batch norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Calls ``block(x, *args, **kwargs)`` and stores only ``x`` for the backward pass, which runs the block again.

    Outputs, gradients and running statistics are those of an ordinary call: the second run does not update the running
    statistics of batch norms.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    result = checkpoint(block, x, *args, use_reentrant=False, context_fn=contexts, **kwargs)
    return cast(Tensor, result)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms in ``block`` do not change their running statistics.

    They run as usual, with a share of 0 for the new statistics, because checkpointing requires the same operations.
    """
    norms = [layer for layer in block.modules() if isinstance(layer, _BatchNorm)]
    before = [(layer, layer.momentum) for layer in norms]
    synced: list[Any] = [layer for layer in norms if getattr(layer, "tracks", False)]
    counters = [(c, c.clone()) for c in (layer.num_batches_tracked for layer in norms) if c is not None]
    for layer in norms:
        layer.momentum = 0.0
    for layer in synced:
        layer.tracks = False
    try:
        yield
    finally:
        for layer, momentum in before:
            layer.momentum = momentum
        for layer in synced:
            layer.tracks = True
        for counter, value in counters:
            counter.copy_(value)
