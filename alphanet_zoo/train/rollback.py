"""Going back to a checkpoint after training went wrong."""

from __future__ import annotations

from pathlib import Path

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.train.checkpoint import Checkpoint, discard_after, list_checkpoints, load_checkpoint, step_of
from alphanet_zoo.train.guard import Guard
from alphanet_zoo.train.runlog import RunLog
from alphanet_zoo.train.state import RunState, guard_state


def roll_back(run: RunState, folder: Path, log: RunLog) -> None:
    """Takes a run back to its last healthy checkpoint, or to its beginning where it has none yet.

    The draws go on where they were, so that no batch is replayed into the same failure. That is a function of the
    steps alone: a run that is stopped around a rollback ends as one that is not. Checkpoints of later steps go.

    Raises:
        AlphaNetError: It is one rollback too many, or no checkpoint is healthy.
    """
    failed, reason = run.step, run.guard.reason()
    run.guard.check_may_roll_back(failed)
    every = run.config.checkpoint_every_steps
    checkpoint = run.ranks.from_first(lambda: healthy_checkpoint(folder, run.guard, every))
    memory = run.guard.state
    run.restore(checkpoint)
    kept, run.guard.state = run.guard.state, memory
    run.guard.go_back(kept, failed=failed, restored=run.step)
    run.ranks.from_first(lambda: discard_after(folder, run.step))
    log.note(failed, "rolled back", f"{reason}; going on from step {run.step} with other batches")


def healthy_checkpoint(folder: Path, guard: Guard, every: int) -> Checkpoint | None:
    """The newest whole checkpoint that is worth going back to; None where there never was a checkpoint.

    Those of the regular steps come first: that a run was stopped in between must not change where it goes back to.

    Raises:
        AlphaNetError: None of them is.
    """
    paths = list_checkpoints(folder)
    for path in sorted(paths, key=lambda path: (step_of(path) % every == 0, step_of(path)), reverse=True):
        try:
            checkpoint = load_checkpoint(path)
        except AlphaNetError:
            continue
        if guard.is_healthy(guard_state(checkpoint)):
            return checkpoint
    if paths:
        raise AlphaNetError(
            f"{guard.reason()}, and no checkpoint in {folder} is from before that; lower optim.lr, keep more "
            "checkpoints (checkpoints_kept), and give another output"
        )
    return None
