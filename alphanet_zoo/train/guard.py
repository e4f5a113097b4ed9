"""When a run skips a step, goes back, or gives up. Plain numbers: every process decides alike from the same ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.train.sections import GuardConfig


class Verdict(Enum):
    """What to do after a step."""

    GO_ON = "go on"
    SKIP = "skip"
    ROLL_BACK = "roll back"


@dataclass(frozen=True)
class GuardState:
    """What the guard remembers; a checkpoint keeps it.

    Attributes:
        skipped: Steps in a row, the last one included, that were not applied.
        mean_loss: Exponential mean of the largest subnet's loss against the labels; None before the first step.
        learnt: Whether the mean was ever well below the loss of a guess.
        rollbacks: How often the run has gone back.
        draw_offset: How far the draws are ahead of the steps: after a rollback they go on where they were.
    """

    skipped: int = 0
    mean_loss: float | None = None
    learnt: bool = False
    rollbacks: int = 0
    draw_offset: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The values by name, ready for JSON."""
        return asdict(self)


class Guard:
    """Watches the loss for infinities, NaN and a collapse to chance.

    A step whose loss or gradient is not finite is skipped; too many in a row, or a collapse, call for a rollback. A
    run has *collapsed* when the exponential mean of the largest subnet's loss against the labels exceeds
    ``collapse_share`` of the loss of a guess, after it had been under ``learnt_share`` of it.

    Args:
        config: The limits.
        chance: The loss of a guess, such as ln(classes); 0 where there is nothing to collapse to.

    Attributes:
        state: What it remembers.
    """

    def __init__(self, config: GuardConfig, chance: float) -> None:
        """Remembers nothing yet."""
        self.config, self.state, self._chance = config, GuardState(), chance

    def observe(self, *, finite: bool, loss: float) -> Verdict:
        """Takes note of a step and says what to do.

        Args:
            finite: Whether all losses and gradients of the step, on every process, were finite.
            loss: Mean of the largest subnet's loss against the labels; without meaning where ``finite`` is false.
        """
        if not finite:
            self.state = replace(self.state, skipped=self.state.skipped + 1)
            return Verdict.ROLL_BACK if self.state.skipped >= self.config.skips else Verdict.SKIP
        before = self.state.mean_loss
        mean = loss if before is None else before + (loss - before) / self.config.memory_steps
        learnt = self.state.learnt or mean < self.config.learnt_share * self._chance
        self.state = replace(self.state, skipped=0, mean_loss=mean, learnt=learnt)
        return Verdict.ROLL_BACK if self._collapsed() else Verdict.GO_ON

    def is_healthy(self, state: GuardState) -> bool:
        """Whether a checkpoint with this memory is worth going back to: no skip in progress, no collapse under way."""
        if state.skipped:
            return False
        halfway = (self.config.learnt_share + self.config.collapse_share) / 2 * self._chance
        return not state.learnt or state.mean_loss is None or state.mean_loss <= halfway

    def reason(self) -> str:
        """Why a rollback is due, after `observe` has called for one."""
        if self.state.skipped:
            return f"the loss or its gradient was not finite in {self.state.skipped} steps in a row"
        assert self.state.mean_loss is not None
        return (
            f"training collapsed: the mean loss of the largest subnet against the labels rose to "
            f"{self.state.mean_loss:.3f}, where a guess has {self._chance:.3f}"
        )

    def check_may_roll_back(self, step: int) -> None:
        """Refuses the rollback that is one too many.

        Args:
            step: The step, from 1, that calls for it.

        Raises:
            AlphaNetError: ``rollbacks`` of them are then due; says why, and what to change.
        """
        if self.state.rollbacks + 1 >= self.config.rollbacks:
            raise AlphaNetError(
                f"{self.reason()} at step {step}, after {self.state.rollbacks} earlier rollback(s); lower optim.lr, "
                "lengthen optim.warmup_epochs, set optim.clip_value or look for broken labels, then give another "
                "output or --resume-anyway"
            )

    def go_back(self, kept: GuardState, *, failed: int, restored: int) -> None:
        """Takes up the memory of a checkpoint after step ``restored``, where step ``failed`` (from 1) went wrong.

        The draws (batches, archs, dropout) go on behind the failed step's: no batch is replayed into its failure.
        """
        offset = self.state.draw_offset + failed - restored
        self.state = replace(kept, rollbacks=self.state.rollbacks + 1, draw_offset=offset)

    def forget_rollbacks(self) -> None:
        """Starts counting them anew."""
        self.state = replace(self.state, rollbacks=0)

    def _collapsed(self) -> bool:
        """Whether the mean loss is at that of a guess again."""
        mean = self.state.mean_loss
        return self.state.learnt and mean is not None and mean > self.config.collapse_share * self._chance
