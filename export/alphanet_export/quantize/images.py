"""Images to quantise with: some to take ranges from, and others to judge by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alphanet_export.metadata import ExportedModel
from alphanet_export.onnx_model import FloatArray
from alphanet_export.verify.measure.accuracy import class_indices
from alphanet_zoo.data.preprocess import ImageFolder, split_folder
from alphanet_zoo.errors import UsageError

CALIBRATION_IMAGES = 128
HELD_OUT_IMAGES = 512
FEWEST_IMAGES = 32
FEWEST_LABELLED = 100
"""Held-out images below which one alone would be more than a point of accuracy."""


@dataclass(frozen=True, eq=False)
class QuantImages:
    """Normalised pixels, in two parts that share no image.

    Args:
        calibration: ``(N, 3, S, S)``, for ranges and biases.
        held_out: ``(M, 3, S, S)``, for every choice and the verdict.
        classes: The true class of each held-out image, ``(M,)``; None where they cannot judge accuracy.
        why_unlabelled: Why not; empty where they can.
    """

    calibration: FloatArray
    held_out: FloatArray
    classes: npt.NDArray[np.int64] | None
    why_unlabelled: str = ""


def quant_images(
    model: ExportedModel,
    folder: ImageFolder,
    *,
    calibration: int = CALIBRATION_IMAGES,
    held_out: int = HELD_OUT_IMAGES,
) -> QuantImages:
    """Splits a folder evenly over its classes, and reads what is needed.

    At most half of the images are held out. They have labels where the folder's classes are the model's (see
    `alphanet_export.verify.measure.accuracy.class_indices`) and they are at least `FEWEST_LABELLED`.

    Args:
        model: The float32 file; says how an image is preprocessed.
        folder: The images, in one folder a class.
        calibration: How many to calibrate on at most.
        held_out: How many to hold out at most.

    Raises:
        UsageError: There are fewer than `FEWEST_IMAGES`.
        AlphaNetError: An image cannot be read.
    """
    if len(folder) < FEWEST_IMAGES:
        raise UsageError(
            f"{folder.root} holds {len(folder)} images, too few to quantise with; give at least {FEWEST_IMAGES}, "
            "better some hundreds"
        )
    rest, kept = split_folder(folder, min(held_out, len(folder) // 2))
    pixels, _ = _read(model, rest, calibration)
    judged, labels = _read(model, kept, None)
    classes, why = None, ""
    if len(judged) < FEWEST_LABELLED:
        why = f"only {len(judged)} images are held out, fewer than {FEWEST_LABELLED}"
    else:
        try:
            classes = class_indices(model, folder).numpy()[labels]
        except UsageError:
            why = f"the folders in {folder.root.name} are not the model's {model.num_classes} classes"
    return QuantImages(pixels, judged, classes, why)


def spread(images: FloatArray, count: int) -> FloatArray:
    """``count`` images spread evenly over ``(N, 3, S, S)``, all where there are no more."""
    count = min(count, len(images))
    return images[np.arange(count) * len(images) // count]


def _read(model: ExportedModel, folder: ImageFolder, limit: int | None) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Pixels ``(N, 3, S, S)`` and labels ``(N,)``."""
    batches = list(folder.batches(model.preprocessing, 32, limit))
    return (
        np.concatenate([pixels.numpy() for pixels, _ in batches]),
        np.concatenate([labels.numpy() for _, labels in batches]),
    )
