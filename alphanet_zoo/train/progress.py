"""Reports the progress of a run on standard error: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from alphanet_zoo.train.runlog import SINGLE
from alphanet_zoo.units import duration


class Progress:
    """Shows the steps, losses and validations of a run.

    Args:
        enabled: False shows nothing.
        start: Number of completed steps.
        end: The last step of the run.
    """

    def __init__(self, *, enabled: bool, start: int, end: int) -> None:
        """Shows the start of the run."""
        self._enabled, self._start, self._end, self._began = enabled, start, end, time.monotonic()
        self._bar = tqdm(
            desc="training", initial=start, total=end, unit="step", file=sys.stderr, dynamic_ncols=True,
            disable=None if enabled else True,  # None: only on a terminal.
        )  # fmt: skip
        self._lines = enabled and bool(self._bar.disable)

    def move_to(self, step: int) -> None:
        """Sets the number of completed steps; it decreases at a rollback."""
        if not self._bar.disable:
            self._bar.update(step - self._bar.n)
        if step < self._start:
            self._start, self._began = step, time.monotonic()

    def report(self, line: Mapping[str, Any], epochs: int) -> None:
        """Shows the metrics of a step, see `alphanet_zoo.train.runlog.RunLog.write`."""
        subnets: Mapping[str, Mapping[str, float]] = line["subnets"]
        ends = {name: subnets[name] for name in ("largest", "smallest", SINGLE) if name in subnets}
        losses = ", ".join(_named(f"{figures['loss']:.3f}", name) for name, figures in ends.items())
        first = next(iter(ends.values()))
        accuracy = first.get("accuracy", first.get("label_accuracy", 0.0))
        if not self._bar.disable:
            shown = {"loss": f"{first['loss']:.3f}", "accuracy": f"{accuracy:.1%}"}
            self._bar.set_postfix(shown, refresh=False)
        elif self._lines:
            step = line["step"]
            left = (time.monotonic() - self._began) / max(step - self._start, 1) * (self._end - step)
            self.say(
                f"step {step}/{self._end} (epoch {line['epoch'] + 1}/{epochs}): learning rate {line['lr']:.4g}, "
                f"loss {losses}, training accuracy {accuracy:.1%}, {line['images_per_second']:.0f} images per second, "
                f"{duration(left)} left"
            )

    def validated(self, step: int, validation: Mapping[str, Mapping[str, float]]) -> None:
        """Shows the figures of a validation."""
        figures = "; ".join(f"{name} {described(measured)}" for name, measured in validation.items())
        self.say(f"step {step}/{self._end} validation: {figures}")

    def say(self, text: str) -> None:
        """Prints a line."""
        if self._enabled:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def _named(figure: str, name: str) -> str:
    """A figure with the name of its subnet, if it is one of several."""
    return figure if name == SINGLE else f"{figure} {name}"


def described(figures: Mapping[str, float]) -> str:
    """The figures of a subnet in a validation as text."""
    images = f"of {figures['images']:.0f} validation images"
    if "accuracy" in figures:
        return f"{figures['accuracy']:.1%} {images}"
    return f"mean average precision {figures['mean_average_precision']:.1%}, {images}"
