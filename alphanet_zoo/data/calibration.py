"""Batches of training images from which a subnet's batch-norm statistics are computed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphanet_zoo.data.augment import ImageNetTransform
from alphanet_zoo.data.broken import BrokenImages, warn_once
from alphanet_zoo.data.draws import generator
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.errors import AlphaNetError

BATCH_SIZE = 256
"""Images per batch of the published evaluation's calibration. Source: docs/specification.md, section 3."""
PUBLISHED_IMAGES = 64 * BATCH_SIZE
"""Training images of the published evaluation's calibration."""


FEWEST_IMAGES = 2048
"""With fewer images the statistics are noisy, and `calibration_batches` logs a warning."""


def calibration_order(
    count: int, *, images: int | None = PUBLISHED_IMAGES, batch_size: int = BATCH_SIZE, seed: int = 0
) -> list[npt.NDArray[np.int64]]:
    """Indices of the images of each batch that `calibration_batches` takes from a source of ``count`` images.

    They are drawn without replacement. All batches have the same number of images up to one, at most ``batch_size``.
    """
    if batch_size < 1 or (images is not None and images < 1):
        raise ValueError(f"calibration takes {images} images in batches of {batch_size}; both must be at least 1")
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(count)[:images]
    return np.array_split(chosen, max(1, math.ceil(len(chosen) / batch_size)))


def calibration_batches(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    images: int | None = PUBLISHED_IMAGES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    augment: bool = False,
) -> Iterator[Tensor]:
    """As `calibration_pixels`, normalised: ``(N, 3, S, S)`` float32."""
    for pixels in calibration_pixels(
        source, preprocessing, images=images, batch_size=batch_size, seed=seed, augment=augment
    ):
        yield preprocessing.normalise(pixels)


def calibration_pixels(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    images: int | None = PUBLISHED_IMAGES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    augment: bool = False,
) -> Iterator[Tensor]:
    """Batches of randomly chosen images, before normalisation.

    The batches mix all classes, because batch norm's variance is that within a batch. Every batch has the same weight
    in the average, so they have equal sizes up to one image (`calibration_order`). A broken image is replaced by the
    one after it. Fewer than `FEWEST_IMAGES` images cause a warning.

    Args:
        source: Training images; their labels are not used.
        preprocessing: Preprocessing of an image for the subnet.
        images: Maximum number of images; None is all.
        batch_size: Maximum number of images per batch.
        seed: Seed of the selection, order and augmentation.
        augment: Use the ImageNet training transform (random resized crop, flip, AutoAugment), as the published
            evaluation does, instead of the centre crop of the evaluation.

    Yields:
        ``(N, 3, S, S)`` uint8, N at most ``batch_size``.

    Raises:
        AlphaNetError: Too many images are broken, see `BrokenImages`.
    """
    order = calibration_order(len(source), images=images, batch_size=batch_size, seed=seed)
    indices = np.concatenate(order)
    if len(indices) < FEWEST_IMAGES:
        whole = len(indices) == len(source)
        few = f"all {len(indices):,}" if whole else f"{len(indices):,} of the {len(source):,}"
        remedy = "use more training images" if whole else "raise --calib-images (validation.calibration_batches)"
        warn_once(
            f"batch-norm calibration uses {few} images of {source.name}; with fewer than {FEWEST_IMAGES:,}, statistics "
            f"and accuracy are less exact; {remedy}"
        )
    transform = ImageNetTransform(preprocessing.input_size, autoaugment=True)
    broken = BrokenImages(source.name, len(source), "the calibration uses another image instead")
    position = 0
    for batch in order:
        pixels = []
        for _ in batch:
            index, image = _whole_image(source, indices, position, broken)
            position += 1
            if augment:  # A function of the seed and the image, whatever its place in the order.
                pixels.append(transform(image, generator(seed, "calibration", index)))
            else:
                pixels.append(preprocessing.pixels(image))
        yield torch.stack(pixels)


def _whole_image(
    source: ImageSource, indices: npt.NDArray[np.int64], position: int, broken: BrokenImages
) -> tuple[int, Tensor]:
    """The image at a position of the order or, if it is broken, the next one that is not."""
    for place in range(position, position + len(indices)):
        index = int(indices[place % len(indices)])
        try:
            return index, source.load(index)
        except AlphaNetError as error:
            broken.add(index, str(error))
    raise AlphaNetError(f"no image of {source.name} can be decoded")
