"""Batches of training images for the statistics of a subnet that is about to be exported."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from alphanet_zoo.data.preprocess import ImageFolder, Preprocessing, read_image

PUBLISHED_IMAGES = 64 * 256
"""Training images of the published evaluation's calibration. Source: docs/specification.md, section 3."""
BATCH_SIZE = 256
"""Images of one batch there."""


def calibration_batches(
    folder: ImageFolder,
    preprocessing: Preprocessing,
    *,
    images: int = PUBLISHED_IMAGES,
    seed: int = 0,
    augment: bool = False,
) -> Iterator[Tensor]:
    """Normalised batches ``(N, 3, S, S)`` of randomly chosen images, N = `BATCH_SIZE` or what there is.

    The images are drawn without replacement and mixed: batch norm's variance is that within a batch, and batches in
    the order of the classes would miss what differs between classes. Every batch counts alike, so a last one that is
    not whole is left out.

    Args:
        folder: Training images.
        preprocessing: Of the exported input.
        images: How many to take at most.
        seed: Of the choice, the order and the augmentation.
        augment: Vary the images as the published ImageNet training does, whose statistics were taken so, instead of
            cropping the centre.

    Raises:
        AlphaNetError: An image cannot be read; the message names the file.
    """
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(folder))[:images]
    whole = max(len(chosen) // BATCH_SIZE * BATCH_SIZE, min(len(chosen), BATCH_SIZE))
    for start in range(0, whole, BATCH_SIZE):
        batch = [(int(index), read_image(folder.samples[index][0])) for index in chosen[start : start + BATCH_SIZE]]
        yield torch.stack(
            [augmented(image, preprocessing, seed=(seed, i)) if augment else preprocessing(image) for i, image in batch]
        )


def augmented(image: Image.Image, preprocessing: Preprocessing, *, seed: tuple[int, int]) -> Tensor:
    """A random crop, flip and AutoAugment of one image, as a normalised tensor ``(3, S, S)``.

    Source: docs/specification.md, section 6, "Training images".
    """
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                preprocessing.input_size, interpolation=InterpolationMode(preprocessing.interpolation)
            ),
            v2.RandomHorizontalFlip(),
            v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(preprocessing.mean), list(preprocessing.std)),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        tensor: Tensor = transform(image)
    return tensor
