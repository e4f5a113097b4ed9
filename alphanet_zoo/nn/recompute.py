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
    """Batch norms in ``block`` do not update their running statistics."""
    before = [
        (layer, key, getattr(layer, key))
        for layer in block.modules()
        if isinstance(layer, _BatchNorm)
        for key in ("track_running_stats", "tracks")
        if hasattr(layer, key)
    ]
    for layer, key, _ in before:
        setattr(layer, key, False)
    try:
        yield
    finally:
        for layer, key, value in before:
            setattr(layer, key, value)
