"""Batches of training images from which a subnet's batch-norm statistics are computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphanet_zoo.data.augment import ImageNetTransform
from alphanet_zoo.data.draws import generator
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource

BATCH_SIZE = 256
"""Images per batch of the published evaluation's calibration. Source: docs/specification.md, section 3."""
PUBLISHED_IMAGES = 64 * BATCH_SIZE
"""Training images of the published evaluation's calibration."""


def calibration_order(
    count: int, *, images: int | None = PUBLISHED_IMAGES, batch_size: int = BATCH_SIZE, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Indices of the images that `calibration_batches` takes from a source of ``count``, in its order.

    They are drawn without replacement. A last batch that is not whole is left out, unless it is the only one.
    """
    if batch_size < 1 or (images is not None and images < 1):
        raise ValueError(f"calibration takes {images} images in batches of {batch_size}; both must be at least 1")
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(count)[:images]
    return chosen[: len(chosen) // batch_size * batch_size or len(chosen)]


def calibration_batches(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    images: int | None = PUBLISHED_IMAGES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    augment: bool = False,
) -> Iterator[Tensor]:
    """Normalised batches of randomly chosen images.

    They are in the order of `calibration_order`: batch norm's variance is that within a batch, and batches of one class
    would miss what differs between classes. Every batch has the same weight in the average, so all are whole.

    Args:
        source: Training images; their labels are not used.
        preprocessing: How an image becomes an input of the subnet.
        images: Number of images at most; None is all.
        batch_size: Images per batch.
        seed: Seed of the choice, the order and the augmentation.
        augment: Vary the images with the ImageNet training transform (random resized crop, flip, AutoAugment), from
            which the published statistics were computed, instead of the evaluation's centre crop.

    Yields:
        ``(batch_size, 3, S, S)`` float32; fewer images if the source has no whole batch.

    Raises:
        AlphaNetError: An image cannot be read; the message names it.
    """
    order = calibration_order(len(source), images=images, batch_size=batch_size, seed=seed)
    transform = ImageNetTransform(preprocessing.input_size, autoaugment=True)
    for start in range(0, len(order), batch_size):
        pixels = []
        for index in map(int, order[start : start + batch_size]):
            image = source.load(index)
            if augment:  # A function of the seed and the image, whatever its place in the order.
                pixels.append(transform(image, generator(seed, "calibration", index)))
            else:
                pixels.append(preprocessing.pixels(image))
        yield preprocessing.normalise(torch.stack(pixels))
