"""Where an exported file errs: by class, between classes, in its probabilities, and on which images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from alphanet_zoo.evaluate.diagnostics import (
    Reliability,
    class_counts,
    confident_mistakes,
    confusion_matrix,
    largest_confusions,
    reliability,
)
from alphanet_zoo.evaluate.evaluator import Answers
from alphanet_zoo.evaluate.statistics import wilson_interval

MATRIX_CLASSES = 30
"""Maximum number of classes for which the report contains the whole confusion matrix."""
CONFUSIONS = 1000
"""Maximum number of confusions in a report, so that its size is bounded."""
MISTAKES = 20
"""Maximum number of confident mistakes in a report."""
THUMBNAIL_SIDE = 96
"""Maximum side of a thumbnail, in pixels."""


@dataclass(frozen=True)
class ClassFigures:
    """Accuracy on the images of one class.

    Args:
        label: Name of the class.
        images: Number of its images.
        correct: Number of its images that are classified correctly.
        predicted: Number of images, of all classes, that are classified as it.
        accuracy: ``correct / images`` in percent (the recall of the class); None without images.
        interval: 95 % Wilson interval of ``accuracy``; None without images.
    """

    label: str
    images: int
    correct: int
    predicted: int
    accuracy: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Confusion:
    """Images of one class that are classified as another.

    Args:
        label: Their class.
        predicted: The class that they are classified as.
        images: Their number.
        share: Their share of the images of ``label``, in percent.
    """

    label: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified image.

    Args:
        file: Path of the image in the data folder.
        label: Its class.
        predicted: The most likely class.
        confidence: Softmax probability of ``predicted``, from 0 to 1.
        probability: Softmax probability of ``label``, from 0 to 1.
    """

    file: str
    label: str
    predicted: str
    confidence: float
    probability: float


@dataclass(frozen=True)
class Diagnostics:
    """Where a classifier errs.

    Args:
        negative_log_likelihood: Mean of ``-ln p`` over the images, p the softmax probability of the true class.
        expected_calibration_error: See `Reliability.expected_calibration_error`.
        mean_confidence: Mean softmax probability of the predicted class, from 0 to 1.
        reliability: Accuracy and confidence in bins of confidence.
        per_class: Figures of each class, in the order of the logits.
        confusion_matrix: Number of images by true class (row) and predicted class (column); None with more than
            `MATRIX_CLASSES` classes.
        confusions: The most frequent confusions, at most `CONFUSIONS`, the most frequent first.
        mistakes: The most confident mistakes, at most `MISTAKES`, the most confident first.
    """

    negative_log_likelihood: float
    expected_calibration_error: float
    mean_confidence: float
    reliability: Reliability
    per_class: tuple[ClassFigures, ...]
    confusion_matrix: tuple[tuple[int, ...], ...] | None
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Mistake, ...]


def diagnose(answers: Answers, labels: Sequence[str], file_of: Callable[[int], str]) -> Diagnostics:
    """The diagnostics of predictions.

    Args:
        answers: The predictions, for at least one image.
        labels: Names of the classes.
        file_of: Maps the index of an image to its path in the data folder.
    """
    truth, predicted, classes = answers.classes, answers.best[:, 0], answers.num_classes
    bins = reliability(answers.confidence, answers.right)
    matrix = None
    if classes <= MATRIX_CLASSES:
        matrix = tuple(map(tuple, confusion_matrix(truth, predicted, classes).tolist()))
    counts = class_counts(truth, predicted, classes).tolist()
    wrong = confident_mistakes(answers.confidence, answers.right, MISTAKES)
    return Diagnostics(
        negative_log_likelihood=-float(answers.log_likelihood.double().mean()),
        expected_calibration_error=bins.expected_calibration_error,
        mean_confidence=float(answers.confidence.double().mean()),
        reliability=bins,
        per_class=tuple(_class_figures(label, *row) for label, row in zip(labels, counts, strict=True)),
        confusion_matrix=matrix,
        confusions=tuple(
            Confusion(labels[true], labels[other], images, 100 * images / counts[true][0])
            for true, other, images in largest_confusions(truth, predicted, classes, CONFUSIONS)
        ),
        mistakes=tuple(
            Mistake(
                file=file_of(index),
                label=labels[int(truth[index])],
                predicted=labels[int(predicted[index])],
                confidence=float(answers.confidence[index]),
                probability=float(answers.log_likelihood[index].exp()),
            )
            for index in wrong
        ),
    )


def thumbnail(image: Tensor) -> str:
    """A small JPEG of an image as a data URI of a few kB, for a page that needs no other file.

    Args:
        image: ``(3, H, W)`` uint8. Small images are enlarged without smoothing.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = THUMBNAIL_SIDE / max(picture.size)
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    small = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    with io.BytesIO() as file:
        small.save(file, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _class_figures(label: str, images: int, correct: int, predicted: int) -> ClassFigures:
    """The figures of one class."""
    if not images:
        return ClassFigures(label, 0, 0, predicted, None, None)
    low, high = wilson_interval(correct, images)
    return ClassFigures(label, images, correct, predicted, 100 * correct / images, (100 * low, 100 * high))
