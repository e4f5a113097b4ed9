"""Where a classifier errs: accuracy by class, confusions, calibration of its probabilities, confident mistakes.

All functions take one value per image, so their memory does not depend on the number of classes. Only
`confusion_matrix` allocates ``classes**2`` counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BINS = 15
"""Bins of the expected calibration error."""


@dataclass(frozen=True)
class Reliability:
    """Images by confidence, the softmax probability of the predicted class, in bins of equal width.

    Bin b contains the confidences in ``(edges[b], edges[b + 1]]``; the first bin also contains 0.

    Args:
        edges: The bounds of the bins, from 0 to 1, ascending; one more than there are bins.
        images: Number of images in each bin.
        confidence: Mean confidence of the images in each bin; None if the bin is empty.
        accuracy: Share of the images in each bin that are classified correctly, from 0 to 1; None if it is empty.
    """

    edges: tuple[float, ...]
    images: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]

    @property
    def expected_calibration_error(self) -> float:
        """The mean over the images of ``|accuracy - confidence|`` of their bin, from 0 to 1.

        Source: Guo et al., "On calibration of modern neural networks", 2017, equation 3.
        """
        gaps = (
            images * abs(accuracy - confidence)
            for images, confidence, accuracy in zip(self.images, self.confidence, self.accuracy, strict=True)
            if accuracy is not None and confidence is not None
        )
        return sum(gaps) / sum(self.images)


def reliability(confidence: Tensor, right: Tensor, bins: int = BINS) -> Reliability:
    """Accuracy and mean confidence of the images in each bin of confidence.

    Args:
        confidence: Softmax probability of the predicted class of each image, ``(N,)``, N at least 1.
        right: Whether each image is classified correctly, ``(N,)`` bool.
        bins: Number of bins.

    Raises:
        ValueError: The number of images or of bins is 0, or the numbers of values differ.
    """
    if len(confidence) != len(right) or len(right) < 1 or bins < 1:
        raise ValueError(f"{len(confidence)} confidences, {len(right)} images, {bins} bins: pass one confidence per "
                         "image, at least one image and at least one bin")  # fmt: skip
    edges = np.linspace(0.0, 1.0, bins + 1)
    values = confidence.double().numpy()
    places = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    images = np.bincount(places, minlength=bins)
    sums = (np.bincount(places, weights=each, minlength=bins) for each in (values, right.double().numpy()))
    means = [tuple(float(s / n) if n else None for s, n in zip(total, images, strict=True)) for total in sums]
    return Reliability(tuple(edges.tolist()), tuple(images.tolist()), *means)


def class_counts(classes: Tensor, predicted: Tensor, num_classes: int) -> npt.NDArray[np.int64]:
    """For each class the number of its images, of those classified correctly, and of all images predicted as it.

    Args:
        classes: True class of each image, ``(N,)``.
        predicted: Predicted class of each image, ``(N,)``.
        num_classes: Number of classes.

    Returns:
        ``(num_classes, 3)``.
    """
    counts = [
        torch.bincount(each, minlength=num_classes) for each in (classes, classes[classes == predicted], predicted)
    ]
    return torch.stack(counts, dim=1).numpy()


def confusion_matrix(classes: Tensor, predicted: Tensor, num_classes: int) -> npt.NDArray[np.int64]:
    """Number of images by true class (row) and predicted class (column), ``(num_classes, num_classes)``.

    Arguments as in `class_counts`.
    """
    cells = torch.bincount(classes * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).numpy()


def largest_confusions(classes: Tensor, predicted: Tensor, num_classes: int, most: int) -> list[tuple[int, int, int]]:
    """The most frequent pairs of a true class and another, predicted class: ``(true, predicted, images)``.

    The most frequent pair is first; equally frequent pairs are in the order of their classes.

    Args:
        classes: True class of each image, ``(N,)``.
        predicted: Predicted class of each image, ``(N,)``.
        num_classes: Number of classes.
        most: Maximum number of pairs.
    """
    wrong = classes != predicted
    pairs, counts = torch.unique(classes[wrong] * num_classes + predicted[wrong], return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)[:most]
    return [(pair // num_classes, pair % num_classes, count)
            for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)]  # fmt: skip


def confident_mistakes(confidence: Tensor, right: Tensor, most: int) -> list[int]:
    """Indices of the wrongly classified images, that with the highest confidence first; at most ``most``.

    Args:
        confidence: Softmax probability of the predicted class of each image, ``(N,)``.
        right: Whether each image is classified correctly, ``(N,)`` bool.
        most: Maximum number of indices.
    """
    wrong = (~right).nonzero().squeeze(1)
    order = torch.argsort(confidence[wrong], descending=True, stable=True)[:most]
    indices: list[int] = wrong[order].tolist()
    return indices
