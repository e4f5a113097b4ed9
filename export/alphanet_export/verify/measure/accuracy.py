"""Accuracy of an exported file on labelled images, with its confidence interval."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from alphanet_export.metadata import ExportedModel
from alphanet_export.runtimes.runtime import open_runtime
from alphanet_zoo.data.sources import ImageSource, spread
from alphanet_zoo.errors import AccuracyError
from alphanet_zoo.evaluate.evaluator import Answers, Evaluator, Hits, Predict
from alphanet_zoo.evaluate.statistics import wilson_interval

BATCH = 16
"""Images decoded at a time and, if the model's batch size allows it, run at a time."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labelled images, in percent, with 95 % Wilson intervals.

    Args:
        top1: Share of the images whose class has the largest logit.
        top1_interval: Its interval.
        top5: Share of the images whose class is among the five largest logits; None with five classes or fewer.
        top5_interval: Its interval, or None.
        images: Number of images.
        classes: Number of classes.
        correct: Number of images whose class has the largest logit.
    """

    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    top5_interval: tuple[float, float] | None
    images: int
    classes: int
    correct: int

    @property
    def suspicion(self) -> str | None:
        """What to check if top-1 is near chance; else None."""
        return Hits(self.correct, self.images).suspicion(self.classes)

    def check(self, min_top1: float) -> Accuracy:
        """Returns itself.

        Raises:
            AccuracyError: Top-1 is below ``min_top1`` percent.
        """
        if self.top1 < min_top1:
            low, high = self.top1_interval
            raise AccuracyError(
                f"top-1 {self.top1:.2f} % (95 % interval {low:.2f} to {high:.2f}, {self.images} images) is below the "
                f"minimum of {min_top1:g} %; check that the images are the model's classes, or train it further"
            )
        return self


def accuracy_of(answers: Answers) -> Accuracy:
    """Top-1 and top-5 of predictions."""
    images, within = len(answers.classes), (answers.best == answers.classes.unsqueeze(1)).any(dim=1)
    top1, top1_interval = percent(answers.hits.correct, images)
    top5, top5_interval = percent(int(within.sum()), images) if answers.num_classes > 5 else (None, None)
    return Accuracy(top1, top1_interval, top5, top5_interval, images, answers.num_classes, answers.hits.correct)


def measure_accuracy(
    model: ExportedModel,
    source: ImageSource,
    *,
    limit: int | None = None,
    threads: int | None = None,
    labels_by_position: bool = False,
) -> Accuracy:
    """Runs labelled images through an exported file in its runtime, with the preprocessing of its metadata.

    Args:
        model: The file, see `alphanet_export.metadata.open_exported`.
        source: The images; for their classes see `alphanet_zoo.data.classes.match_classes`.
        limit: Number of images to use, spread evenly over the source; None is all.
        threads: Threads within an operator; None is the number of physical cores.
        labels_by_position: Class i of the images is output i of the model, whatever their names.

    Raises:
        UsageError: The classes of the images are not the model's.
        AlphaNetError: An image cannot be read, or the file cannot be run.
    """
    evaluator = Evaluator(spread(source, limit), batch_size=BATCH, labels_by_position=labels_by_position)
    return accuracy_of(answers_of_file(model, evaluator, threads=threads))


def answers_of_file(model: ExportedModel, evaluator: Evaluator, *, threads: int | None = None) -> Answers:
    """The predictions of an exported file for an evaluator's images; arguments as `measure_accuracy`."""
    with file_predictor(model, threads) as predict:
        prepared = None if model.embedded else model.preprocessing
        return evaluator.answers(predict, prepared, model.num_classes, model.labels)


@contextmanager
def file_predictor(model: ExportedModel, threads: int | None = None) -> Iterator[Predict]:
    """An exported file in its runtime, as a function from pixels to logits; arguments as `measure_accuracy`."""
    with open_runtime(model.path, threads=threads) as runtime:
        yield lambda pixels: torch.from_numpy(runtime.infer(pixels.numpy()))


def percent(successes: int, trials: int) -> tuple[float, tuple[float, float]]:
    """A share and its interval, in percent."""
    low, high = wilson_interval(successes, trials)
    return 100 * successes / trials, (100 * low, 100 * high)
