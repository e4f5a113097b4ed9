"""Training batches as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alphanet_zoo.errors import UsageError
from alphanet_zoo.train.config import DataConfig
from alphanet_zoo.train.digits import write_digits
from alphanet_zoo.train.draws import generator
from alphanet_zoo.zoo.preprocess import ImageFolder, Preprocessing, read_image

MEMORY_LIMIT = 2 * 2**30
"""Bytes that the decoded images of a folder may take."""


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        epoch: The epoch, from 0.
        indices: ``(N,)`` which images of the folder.
        images: ``(N, 3, S, S)`` float32, varied and normalised.
        labels: ``(N,)`` class indices.
    """

    epoch: int
    indices: tuple[int, ...]
    images: Tensor
    labels: Tensor


def decode_folder(folder: ImageFolder, geometry: Preprocessing) -> tuple[Tensor, Tensor]:
    """All images of a folder, resized and cropped: ``(N, 3, S, S)`` uint8 and labels ``(N,)``.

    Args:
        folder: The images.
        geometry: Gives the short side, the crop and the interpolation; its mean and deviation are not used.

    Raises:
        UsageError: They would take more than `MEMORY_LIMIT` bytes.
        AlphaNetError: An image cannot be read.
    """
    size = geometry.input_size
    needed = len(folder) * 3 * size**2
    if needed > MEMORY_LIMIT:
        raise UsageError(
            f"the {len(folder)} images of {folder.root} take {needed / 2**30:.1f} GiB at {size} pixels; "
            f"this version holds at most {MEMORY_LIMIT / 2**30:.0f} GiB: give fewer images or a smaller data.image_size"
        )
    plain = Preprocessing(size, geometry.resize_size, geometry.interpolation, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    images = torch.empty((len(folder), 3, size, size), dtype=torch.uint8)
    for i, (path, _) in enumerate(folder.samples):
        images[i] = (plain(read_image(path)) * 255.0).round().to(torch.uint8)
    return images, torch.tensor([label for _, label in folder.samples])


class TrainingBatches:
    """Augmented batches of a folder of images, each a function of (seed, step).

    An epoch's order is drawn from (seed, epoch), an image's variation from (seed, epoch, index): no batch depends on
    which ones were made before it. Batches are whole; what an epoch's last one lacks is left for another epoch.

    Attributes:
        classes: Names of the classes.
        steps_per_epoch: Whole batches that the images give.

    Raises:
        UsageError: No such folder, fewer images than a batch, or more than fit in memory.
    """

    def __init__(self, config: DataConfig, preprocessing: Preprocessing, seed: int) -> None:
        """Reads ``config.root/train``; ``preprocessing`` gives geometry, mean and deviation."""
        root = write_digits(config.root) if config.source == "digits" else Path(config.root)
        folder = ImageFolder(root / "train")
        if len(folder) < config.batch_size:
            raise UsageError(
                f"{folder.root} has {len(folder)} images, fewer than data.batch_size {config.batch_size}; "
                "give more images or a smaller batch"
            )
        self.classes = folder.classes
        self.steps_per_epoch = len(folder) // config.batch_size
        self._config, self._preprocessing, self._seed = config, preprocessing, seed
        self._images, self._labels = decode_folder(folder, preprocessing.for_size(config.image_size))

    def batch(self, step: int) -> Batch:
        """The batch of one step, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = generator(self._seed, "order", epoch).permutation(len(self._labels))
        size = self._config.batch_size
        chosen = order[position * size : (position + 1) * size]
        indices = tuple(map(int, chosen))
        thetas = [self._draw_affine(epoch, index) for index in indices]
        images = self._images[torch.from_numpy(chosen)].float() / 255.0
        images = warp(images, torch.tensor(np.stack(thetas), dtype=torch.float32))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self._preprocessing.mean, self._preprocessing.std))
        return Batch(epoch, indices, (images - mean) / std, self._labels[torch.from_numpy(chosen)])

    def _draw_affine(self, epoch: int, index: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """The small rotation, zoom and shift of one image in one epoch, as `warp` takes it."""
        config = self._config
        turn, zoom, x, y = generator(self._seed, "augment", epoch, index).uniform(-1.0, 1.0, 4)
        angle, scale = math.radians(config.rotate_degrees * turn), 1.0 / (1.0 + config.zoom * zoom)
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        return np.array([[cosine, -sine, 2 * config.shift * x], [sine, cosine, 2 * config.shift * y]])


def warp(images: Tensor, thetas: Tensor) -> Tensor:
    """Samples ``(N, 3, S, S)`` images at affinely moved places, bilinearly; the border's pixels go on beyond it.

    Args:
        images: Float images.
        thetas: ``(N, 2, 3)``, from an output place to the input place, in units of half a side.
    """
    grid = F.affine_grid(thetas, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
