"""How often an exported file is right, with the interval that the number of images allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alphanet_export.onnx_model import OnnxModel, open_session, run_logits
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.classes import match_classes
from alphanet_zoo.data.sources import ImageSource, spread
from alphanet_zoo.errors import AccuracyError, AlphaNetError
from alphanet_zoo.evaluate.statistics import wilson_interval


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labelled images, in percent, with 95 % Wilson intervals.

    Args:
        top1: Share of the images whose class has the largest logit.
        top1_interval: Its interval.
        top5: Share of the images whose class is among the five largest logits; None with five classes or fewer,
            where it says nothing.
        top5_interval: Its interval, or None.
        images: How many images.
        classes: How many classes.
    """

    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    top5_interval: tuple[float, float] | None
    images: int
    classes: int

    def check(self, min_top1: float) -> Accuracy:
        """Returns itself.

        Raises:
            AccuracyError: Top-1 is below ``min_top1`` percent.
        """
        if self.top1 < min_top1:
            low, high = self.top1_interval
            raise AccuracyError(
                f"top-1 {self.top1:.2f} % (95 % interval {low:.2f} to {high:.2f}, {self.images} images) is below the "
                f"floor of {min_top1:g} %; check that the images are the model's classes, or train it further"
            )
        return self


@dataclass(frozen=True, eq=False)
class Classified:
    """What a file made of labelled images.

    Args:
        best: Its up to five likeliest classes of each image, ``(N, 5)``, the likeliest first.
        classes: The true class of each image, ``(N,)``.
        num_classes: How many classes it tells apart.
    """

    best: torch.Tensor
    classes: torch.Tensor
    num_classes: int

    @property
    def right(self) -> torch.Tensor:
        """Whether the likeliest class is the true one, ``(N,)``."""
        return self.best[:, 0] == self.classes

    @property
    def accuracy(self) -> Accuracy:
        """Top-1 and top-5."""
        images, within = len(self.classes), (self.best == self.classes.unsqueeze(1)).any(dim=1)
        top1, top1_interval = _percent(int(self.right.sum()), images)
        top5, top5_interval = _percent(int(within.sum()), images)
        some = self.num_classes > 5
        return Accuracy(
            top1, top1_interval, top5 if some else None, top5_interval if some else None, images, self.num_classes
        )


def measure_accuracy(
    model: OnnxModel,
    source: ImageSource,
    *,
    batch_size: int = 16,
    limit: int | None = None,
    threads: int = 0,
    labels_by_position: bool = False,
) -> Accuracy:
    """Runs labelled images through an exported file, with the preprocessing that its metadata has.

    Args:
        model: The file, see `alphanet_export.onnx_model.open_model`.
        source: The images; for their classes see `class_outputs`.
        batch_size: Images decoded at a time and, if the model allows it, run at a time.
        limit: Number of images, spread evenly over the source; None is all.
        threads: Threads within an operator; 0 leaves the choice to ONNX Runtime.
        labels_by_position: Class i of the images is output i of the model, whatever their names.

    Raises:
        UsageError: The images' classes are not the model's.
        AlphaNetError: An image cannot be read, or the file cannot be run.
    """
    options = {"batch_size": batch_size, "limit": limit, "threads": threads}
    return classify(model, source, **options, labels_by_position=labels_by_position).accuracy  # type: ignore[arg-type]


def classify(
    model: OnnxModel,
    source: ImageSource,
    *,
    batch_size: int = 16,
    limit: int | None = None,
    threads: int = 0,
    labels_by_position: bool = False,
) -> Classified:
    """As `measure_accuracy`, and keeps the classes of each image."""
    outputs = class_outputs(model, source, labels_by_position)
    session = open_session(model.path, "all", threads)
    best, classes = [], []
    for pixels, labels in evaluation_batches(spread(source, limit), model.preprocessing, batch_size):
        try:
            logits = torch.from_numpy(run_logits(session, pixels.numpy()))
        except Exception as error:  # ONNX Runtime's errors derive from Exception directly.
            raise AlphaNetError(f"ONNX Runtime cannot run {model.path}: {error}") from error
        best.append(logits.topk(min(5, model.num_classes), dim=1).indices)
        classes.append(outputs[labels])
    return Classified(torch.cat(best), torch.cat(classes), model.num_classes)


def class_outputs(model: OnnxModel, source: ImageSource, labels_by_position: bool = False) -> torch.Tensor:
    """The model's output for each class of the images, ``(classes,)``; see `match_classes`."""
    return match_classes(
        source.classes, model.labels, model.num_classes, by_position=labels_by_position, where=source.name
    )


def _percent(successes: int, trials: int) -> tuple[float, tuple[float, float]]:
    """A share and its interval, in percent."""
    low, high = wilson_interval(successes, trials)
    return 100 * successes / trials, (100 * low, 100 * high)
