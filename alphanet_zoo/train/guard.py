"""When a run skips a step, rolls back, or aborts. The same numbers on every process lead to the same decisions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Annotated, Any

from pydantic import Field, model_validator

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.schema import Count, Section


class GuardConfig(Section):
    """Limits for non-finite steps and for a collapse to chance level."""

    skips: Count = 3
    """Roll back after this many consecutive steps with a non-finite loss or gradient. Such steps are not applied."""
    rollbacks: Count = 2
    """Abort on the Nth rollback."""
    memory_steps: Count = 50
    """Time constant, in steps, of the exponential mean of the largest subnet's loss against the labels."""
    learnt_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.75
    """The run counts as learning once the mean loss is below this share of the chance-level loss: ln(classes), or with
    multi-label images the mean entropy of the label frequencies."""
    collapse_share: Annotated[float, Field(gt=0.0)] = 0.95
    """Roll back if the run was learning and its mean loss exceeds this share of the chance-level loss."""

    @model_validator(mode="after")
    def _shares_ascend(self) -> GuardConfig:
        """``learnt_share`` must be below ``collapse_share``."""
        if self.learnt_share >= self.collapse_share:
            raise ValueError(
                f"learnt_share is {self.learnt_share}; pass a value below collapse_share ({self.collapse_share})"
            )
        return self


class Verdict(Enum):
    """What to do after a step."""

    CONTINUE = "continue"
    SKIP = "skip"
    ROLL_BACK = "roll back"


@dataclass(frozen=True)
class GuardState:
    """State of the guard; part of every checkpoint.

    Attributes:
        skipped: Number of consecutive steps, up to the last one, that were not applied.
        mean_loss: Exponential mean of the largest subnet's loss against the labels; None before the first step.
        learnt: Whether the mean loss was ever below ``learnt_share`` of the chance-level loss.
        rollbacks: Number of rollbacks so far.
        draw_offset: Random draws of step ``n`` are those of number ``n + draw_offset``. Grows with every rollback, so
            that repeated steps get new draws.
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
    """Watches the loss for non-finite values and for a collapse to chance level.

    A step with a non-finite loss or gradient is skipped. Too many skipped steps in a row, or a collapse, cause a
    rollback. A run has *collapsed* if the exponential mean of the largest subnet's loss against the labels exceeds
    ``collapse_share`` of the chance-level loss after it was below ``learnt_share`` of it.

    Args:
        config: The limits.
        chance_loss: Chance-level loss, such as ln(classes); 0 disables the check for a collapse.

    Attributes:
        state: The current state.
    """

    def __init__(self, config: GuardConfig, chance_loss: float) -> None:
        """Starts with an empty state."""
        self.config, self.state, self._chance_loss = config, GuardState(), chance_loss

    def observe(self, *, finite: bool, loss: float) -> Verdict:
        """Records a step and decides what to do.

        Args:
            finite: Whether all losses and gradients of the step were finite on every process.
            loss: Mean loss of the largest subnet against the labels; ignored if ``finite`` is false.
        """
        if not finite:
            self.state = replace(self.state, skipped=self.state.skipped + 1)
            return Verdict.ROLL_BACK if self.state.skipped >= self.config.skips else Verdict.SKIP
        before = self.state.mean_loss
        mean = loss if before is None else before + (loss - before) / self.config.memory_steps
        learnt = self.state.learnt or mean < self.config.learnt_share * self._chance_loss
        self.state = replace(self.state, skipped=0, mean_loss=mean, learnt=learnt)
        return Verdict.ROLL_BACK if self._collapsed() else Verdict.CONTINUE

    def is_healthy(self, state: GuardState) -> bool:
        """Whether a checkpoint with this state may be rolled back to: no skipped step, no beginning collapse."""
        if state.skipped:
            return False
        halfway = (self.config.learnt_share + self.config.collapse_share) / 2 * self._chance_loss
        return not state.learnt or state.mean_loss is None or state.mean_loss <= halfway

    def reason(self) -> str:
        """The reason for the rollback that `observe` requested."""
        if self.state.skipped:
            return f"the loss or its gradient was not finite in {self.state.skipped} steps in a row"
        assert self.state.mean_loss is not None
        return (
            f"training collapsed: the mean loss against the labels rose to "
            f"{self.state.mean_loss:.3f} (chance level: {self._chance_loss:.3f})"
        )

    def check_may_roll_back(self, step: int) -> None:
        """Rejects the rollback number ``rollbacks``.

        Args:
            step: The step, from 1, after which the rollback is due.

        Raises:
            AlphaNetError: There were ``rollbacks - 1`` rollbacks already; the message names reason and remedies.
        """
        if self.state.rollbacks + 1 >= self.config.rollbacks:
            raise AlphaNetError(
                f"{self.reason()} at step {step}, after {self.state.rollbacks} earlier rollback(s). Lower optim.lr, "
                "increase optim.warmup_epochs, set optim.clip_value or check the labels, then pass another output or "
                "--resume-anyway"
            )

    def go_back(self, kept: GuardState, *, failed: int, restored: int) -> None:
        """Takes over the state of the checkpoint of step ``restored`` after step ``failed`` (from 1) failed.

        Draws (batches, archs, dropout) continue after those of the failed step, so no batch is repeated.
        """
        offset = self.state.draw_offset + failed - restored
        self.state = replace(kept, rollbacks=self.state.rollbacks + 1, draw_offset=offset)

    def forget_rollbacks(self) -> None:
        """Resets the number of rollbacks to 0."""
        self.state = replace(self.state, rollbacks=0)

    def _collapsed(self) -> bool:
        """Whether the mean loss is back at chance level."""
        mean = self.state.mean_loss
        return self.state.learnt and mean is not None and mean > self.config.collapse_share * self._chance_loss
