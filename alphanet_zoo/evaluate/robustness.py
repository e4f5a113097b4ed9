"""Accuracy on corrupted images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphanet_zoo.data.corruptions import CORRUPTIONS, SEVERITIES
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.evaluate.evaluator import Answers, Hits, Predict


@dataclass(frozen=True)
class CorruptedHits:
    """Correctly classified images under one corruption of one severity."""

    corruption: str
    severity: int
    hits: Hits


def corrupted_hits(
    source: ImageSource,
    predict: Predict,
    preprocessing: Preprocessing,
    outputs: Tensor,
    *,
    batch_size: int = 16,
    seed: int = 0,
) -> tuple[Hits, tuple[CorruptedHits, ...]]:
    """Runs every image without corruption, and under each of `CORRUPTIONS` at each of its severities.

    Each image is decoded and resized once. Memory is that of one batch.

    Args:
        source: Labelled images, at least one.
        predict: The model.
        preprocessing: Preprocessing of an image for the model; the corruption is applied after resize and crop.
        outputs: The model's output for each class of the images, ``(classes,)``.
        batch_size: Images per run of the model.
        seed: Seed of the random corruptions.

    Returns:
        The hits without corruption, and those of each corruption and severity, in the order of `CORRUPTIONS`.

    Raises:
        AlphaNetError: An image cannot be read, or the model cannot be run.
    """
    cases = [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
    clean, correct = 0, [0] * len(cases)
    for start in range(0, len(source), batch_size):
        indices = range(start, min(start + batch_size, len(source)))
        truth = outputs[source.labels[list(indices)]]
        pixels = [preprocessing.pixels(source.load(index)) for index in indices]
        clean += _correct(predict, preprocessing, pixels, truth)
        for place, (corruption, severity) in enumerate(cases):
            corrupted = [
                corruption(image, severity, seed=seed, index=index)
                for image, index in zip(pixels, indices, strict=True)
            ]
            correct[place] += _correct(predict, preprocessing, corrupted, truth)
    results = (
        CorruptedHits(corruption.name, severity, Hits(count, len(source)))
        for (corruption, severity), count in zip(cases, correct, strict=True)
    )
    return Hits(clean, len(source)), tuple(results)


def _correct(predict: Predict, preprocessing: Preprocessing, pixels: list[Tensor], truth: Tensor) -> int:
    """Number of images of a batch that are classified correctly."""
    return Answers.of(predict(preprocessing.normalise(torch.stack(pixels))), truth).hits.correct
