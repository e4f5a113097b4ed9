"""How a batch is shared out when a run goes on with another number of processes."""

from __future__ import annotations

from alphanet_zoo.errors import UsageError
from alphanet_zoo.train.checkpoint import Checkpoint
from alphanet_zoo.train.config import TrainConfig


def parts_each(config: TrainConfig, processes: int, checkpoint: Checkpoint | None) -> int:
    """Parts that each process takes its share of a batch in, so that batch norm sees as many images as before.

    A run takes its batches in processes x ``optim.accumulate`` parts, and batch norm sees one at a time. Another number
    of processes shares the same parts. Synchronised batch norm sees the parts of all processes at once; there
    ``optim.accumulate`` stays.

    Args:
        config: The run's.
        processes: How many there are now.
        checkpoint: What the run goes on from; None at its beginning.

    Raises:
        UsageError: The processes cannot share the parts evenly.
    """
    stated = config.optim.accumulate
    if checkpoint is None or config.distributed.sync_bn or checkpoint.state["config"]["optim"]["accumulate"] != stated:
        return stated
    parts: int = checkpoint.state.get("parts", processes * stated)  # absent in checkpoints older than this rule
    if parts % processes:
        raise UsageError(
            f"the run takes its batches in {parts} parts, which {processes} processes cannot share; start a number of "
            f"processes that divides {parts}, or --resume-anyway to take {processes * stated} parts from now on"
        )
    return parts // processes
