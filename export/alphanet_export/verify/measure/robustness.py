"""Accuracy of an exported file on corrupted images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alphanet_export.metadata import ExportedModel
from alphanet_export.verify.measure.accuracy import BATCH, file_predictor, percent
from alphanet_zoo.data.corruptions import CORRUPTIONS
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.robustness import CorruptedHits, corrupted_hits

SEED = 0
"""Seed of the random corruptions."""


@dataclass(frozen=True)
class CorruptedAccuracy:
    """Accuracy under one corruption of one severity.

    Args:
        corruption: Its name.
        severity: 1 (weakest) to 5.
        parameter: What the parameter of the corruption is.
        value: The parameter at this severity.
        top1: Top-1 in percent.
        top1_interval: Its 95 % Wilson interval.
    """

    corruption: str
    severity: int
    parameter: str
    value: float
    top1: float
    top1_interval: tuple[float, float]


@dataclass(frozen=True)
class Robustness:
    """Accuracy on corrupted images, see `alphanet_zoo.data.corruptions`.

    Args:
        images: Number of images.
        seed: Seed of the random corruptions.
        clean_top1: Top-1 in percent without corruption.
        mean_top1: Mean of top-1 over all corruptions and severities, in percent.
        corrupted: Accuracy under each corruption and severity.
    """

    images: int
    seed: int
    clean_top1: float
    mean_top1: float
    corrupted: tuple[CorruptedAccuracy, ...]


def measure_robustness(
    model: ExportedModel, source: ImageSource, outputs: Tensor, *, threads: int | None = None, seed: int = SEED
) -> Robustness:
    """Runs corrupted images through an exported file in its runtime.

    Args:
        model: The file.
        source: Labelled images.
        outputs: The model's output for each class of the images, ``(classes,)``.
        threads: Threads within an operator; None is the number of physical cores.
        seed: Seed of the random corruptions.

    Raises:
        UsageError: The file includes its preprocessing; the corruptions are defined after resize and crop.
        AlphaNetError: An image cannot be read, or the file cannot be run.
    """
    if model.embedded:
        raise UsageError(f"{model.path} includes its preprocessing; pass a file exported without --embed-preprocessing "
                         "to --corruptions")  # fmt: skip
    with file_predictor(model, threads) as predict:
        clean, corrupted = corrupted_hits(source, predict, model.preprocessing, outputs, batch_size=BATCH, seed=seed)
    figures = tuple(map(_accuracy, corrupted))
    mean = sum(each.top1 for each in figures) / len(figures)
    return Robustness(clean.images, seed, 100 * clean.accuracy, mean, figures)


def _accuracy(measured: CorruptedHits) -> CorruptedAccuracy:
    """The figures of one corruption and severity."""
    corruption = next(each for each in CORRUPTIONS if each.name == measured.corruption)
    value = corruption.values[measured.severity - 1]
    top1 = percent(measured.hits.correct, measured.hits.images)
    return CorruptedAccuracy(measured.corruption, measured.severity, corruption.parameter, value, *top1)
