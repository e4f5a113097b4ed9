"""Images to quantise with: one part to take ranges from, and another to judge the result by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from alphanet_export.metadata import ExportedModel
from alphanet_export.onnx_model import FloatArray
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.classes import match_classes
from alphanet_zoo.data.sources import ImageSource, split_hold_out
from alphanet_zoo.data.sources import spread as spread_source
from alphanet_zoo.errors import UsageError
from alphanet_zoo.units import counted

CALIBRATION_IMAGES = 128
HELD_OUT_IMAGES = 512
FEWEST_IMAGES = 32
FEWEST_LABELLED = 100
"""With fewer held-out images, one of them alone is more than a point of accuracy."""


@dataclass(frozen=True, eq=False)
class QuantImages:
    """Normalised pixels, in two parts without a common image.

    Args:
        calibration: ``(N, 3, S, S)``, for ranges and biases.
        held_out: ``(M, 3, S, S)``, for every choice and the verdict.
        classes: The model's output for each held-out image, ``(M,)``; None if accuracy cannot be judged by them.
        why_unlabelled: The reason; empty if ``classes`` is not None.
    """

    calibration: FloatArray
    held_out: FloatArray
    classes: npt.NDArray[np.int64] | None
    why_unlabelled: str = ""


def quant_images(
    model: ExportedModel,
    source: ImageSource,
    *,
    calibration: int = CALIBRATION_IMAGES,
    held_out: int = HELD_OUT_IMAGES,
    labels_by_position: bool = False,
) -> QuantImages:
    """Splits images evenly over their classes, and reads those that are needed.

    At most half of the images are held out. Accuracy is judged by their labels if there are at least `FEWEST_LABELLED`
    of them and their classes are the model's, see `alphanet_zoo.data.classes.match_classes`. Images of other classes,
    none of which is a label of the model, can be used too; then the agreement with the float model is judged.

    Args:
        model: The float32 file; its metadata has the preprocessing and the labels.
        source: The images.
        calibration: Number of images to calibrate on, at most.
        held_out: Number of images to hold out, at most.
        labels_by_position: Class i of the images is output i of the model, whatever their names.

    Raises:
        UsageError: There are fewer than `FEWEST_IMAGES`, or some classes are labels of the model and others are not.
        AlphaNetError: An image cannot be read.
    """
    if len(source) < FEWEST_IMAGES:
        raise UsageError(
            f"{source.name} has {counted(len(source), 'image')}, too few to quantise with; pass at least "
            f"{FEWEST_IMAGES}, "
            "better some hundreds"
        )
    outputs, why = _outputs(model, source, labels_by_position)
    rest, kept = split_hold_out(source, _number_held_out(source, held_out))
    pixels, _ = _read(model, spread_source(rest, calibration))
    judged, labels = _read(model, kept)
    if len(judged) < FEWEST_LABELLED:
        outputs, why = None, f"only {len(judged)} images are held out, fewer than {FEWEST_LABELLED}"
    return QuantImages(pixels, judged, None if outputs is None else outputs.numpy()[labels], why)


def held_out(source: ImageSource) -> ImageSource:
    """The images that `quant_images` holds out by default."""
    return split_hold_out(source, _number_held_out(source, HELD_OUT_IMAGES))[1]


def _number_held_out(source: ImageSource, most: int) -> int:
    """The number of images to hold out."""
    return min(most, len(source) // 2)


def _outputs(model: ExportedModel, source: ImageSource, by_position: bool) -> tuple[torch.Tensor | None, str]:
    """The model's output for each class of the images, or None and why they are of other classes."""
    remedy = "pass --labels-by-position if class i is output i"
    if not by_position and model.labels and set(source.classes).isdisjoint(model.labels):
        return None, f"no class of {source.name} is one of the model's labels; {remedy}"
    if not by_position and not model.labels and len(source.classes) != model.num_classes:
        return None, f"the model has {model.num_classes} classes without names, and {source.name} has other classes"
    outputs = match_classes(source.classes, model.labels, model.num_classes, by_position=by_position, where=source.name)
    return outputs, ""


def spread(images: FloatArray, count: int) -> FloatArray:
    """``count`` images spread evenly over ``(N, 3, S, S)``; all if there are no more."""
    count = min(count, len(images))
    return images[np.arange(count) * len(images) // count]


def _read(model: ExportedModel, source: ImageSource) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Pixels ``(N, 3, S, S)`` and labels ``(N,)``."""
    batches = list(evaluation_batches(source, model.preprocessing, 32))
    return (
        np.concatenate([pixels.numpy() for pixels, _ in batches]),
        np.concatenate([labels.numpy() for _, labels in batches]),
    )
