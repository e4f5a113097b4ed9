"""Raw batches, made in this process or in a worker: the images of a step, and how each of them is augmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alphanet_zoo.data.augment import (
    Box,
    CentreCrop,
    CifarTransform,
    Window,
    draw_affine,
    draw_box,
    make_transform,
    reflected,
)
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.draws import generator
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.errors import AlphaNetError, UsageError

MEMORY_LIMIT = 2 * 2**30
"""Prepared images are kept in memory if they take at most this many bytes."""

_SUBSTITUTES = 16


class Windows(NamedTuple):
    """The images of a batch, and the crop of each.

    Attributes:
        images: ``(N,)`` int64 indices of the images.
        corners: ``(N, 2)`` int64 top and left of each crop, in the image with its border.
        flips: ``(N,)`` bool, whether the crop is flipped from left to right.
        boxes: ``(N, 4)`` int64, the top, left, bottom and right of the rectangle that is filled in each crop.
    """

    images: Tensor
    corners: Tensor
    flips: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Batch:
    """The images of one training step in one process.

    Attributes:
        epoch: The epoch, from 0.
        indices: ``(N,)`` which images of the source.
        images: ``(N, 3, S, S)`` float32, augmented and normalised, channels-last in memory.
        labels: ``(N,)`` class indices, or ``(N, labels)`` of 0 and 1.
    """

    epoch: int
    indices: tuple[int, ...]
    images: Tensor
    labels: Tensor

    def split(self, parts: int) -> list[Batch]:
        """Equal parts in order, to accumulate gradients over: those that as many processes would get.

        Raises:
            ValueError: The images cannot be divided equally.
        """
        if parts < 1 or len(self.indices) % parts:
            raise ValueError(f"a batch of {len(self.indices)} images cannot be divided into {parts} equal parts")
        size = len(self.indices) // parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
        return [Batch(self.epoch, self.indices[cut], self.images[cut], self.labels[cut]) for cut in cuts]


class RawBatch(NamedTuple):
    """What a worker returns: a quarter of the bytes of an `alphanet_zoo.data.batches.Batch`.

    Attributes:
        epoch: The epoch, from 0.
        indices: Which images were asked for.
        images: ``(N, 3, S, S)`` uint8, channels-last in memory; or the windows to cut, if the images are on the device.
        labels: ``(N,)``; those of the substitutes of broken images.
        thetas: ``(N, 2, 3)`` affine moves that remain to be made, or None.
        broken: Index and error message of each broken image.
    """

    epoch: int
    indices: tuple[int, ...]
    images: Tensor | Windows
    labels: Tensor
    thetas: Tensor | None
    broken: tuple[tuple[int, str], ...]


class ResidentImages:
    """Small images kept on the training device, where whole batches of them are cut and flipped.

    What happens to an image is drawn from the seed, the epoch and its index, as for every engine, and gives the same
    bits.

    Args:
        images: ``(N, 3, S, S)`` uint8, on the CPU.
        border: Pixels that a window may show beyond each side of an image.
        fill: ``(3,)`` uint8, the colour of erased rectangles, on the CPU.
    """

    def __init__(self, images: Tensor, border: int, fill: Tensor) -> None:
        """Copies nothing yet; the first `take` on a device does."""
        self._images, self._border, self._fill = images, border, fill

    def take(self, windows: Windows, device: torch.device) -> Tensor:
        """The windows' pixels.

        Args:
            windows: Of a batch, on the CPU.
            device: Where the images stay from now on.

        Returns:
            ``(N, 3, S, S)`` uint8 on ``device``, channels-last in memory.
        """
        self._images, self._fill = self._images.to(device), self._fill.to(device)
        chosen, corners, flips, boxes = (part.to(device, non_blocking=True) for part in windows)
        size = self._images.shape[-1]
        rows, columns = (reflected(corners[:, axis, None], self._border, size) for axis in (0, 1))
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        # The three index tensors broadcast to (N, S, S); the channels, sliced between them, come last.
        pixels = self._images[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        along = torch.arange(size, device=device)
        inside = [(along >= boxes[:, axis, None]) & (along < boxes[:, axis + 2, None]) for axis in (0, 1)]
        erased = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        return torch.where(erased, self._fill, pixels).permute(0, 3, 1, 2)


class BatchReader(Dataset["RawBatch | AlphaNetError"]):
    """Makes the raw batch of any step.

    Args:
        config: Batch size and transform.
        source: The images.
        preprocessing: Geometry of the centre crop that the `affine` transform starts from.
        seed: The run's seed.
        rank: Which slice of every global batch is made, from 0.
        world: Number of equal slices.
    """

    def __init__(
        self, config: DataConfig, source: ImageSource, preprocessing: Preprocessing, seed: int, rank: int, world: int
    ) -> None:
        """Prepares all images now, if they fit in memory and a part of the transform is the same in every epoch."""
        self.config, self.source, self.seed, self.rank = config, source, seed, rank
        self.batch_size = config.batch_size // world
        self.steps_per_epoch = len(source) // config.batch_size
        self._transform = make_transform(config, preprocessing)
        self._fill = torch.tensor([round(255 * value) for value in preprocessing.mean], dtype=torch.uint8)
        self._windowed: CentreCrop | CifarTransform | None = None
        if config.engine == "device" and isinstance(self._transform, CentreCrop | CifarTransform):
            self._windowed = self._transform
        self._kept: Tensor | None = None
        self._kept_broken: dict[int, str] = {}
        self._order: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = None
        size = len(source) * 3 * config.image_size**2
        if self._transform.fixed is not None and size <= MEMORY_LIMIT:
            self._keep()
        elif self._windowed is not None:
            raise UsageError(
                f"{source.name} takes {size:,} bytes, more than data.engine=device keeps ({MEMORY_LIMIT:,}); "
                "use data.engine=torch"
            )

    def __getitem__(self, step: int) -> RawBatch | AlphaNetError:
        """The raw batch of one step, or the error (an exception of a worker would arrive as a traceback's text)."""
        epoch, indices = self.indices(step)
        size, side, broken = self.batch_size, self.config.image_size, dict[int, str]()
        images = torch.empty((size, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        shown, windows, boxes, moves = [], [], list[Box](), []
        try:
            for i, index in enumerate(indices):
                image, used = self._load(epoch, index, broken)
                rng = generator(self.seed, "augment", epoch, index)
                shown.append(used)
                if self._windowed is not None:
                    windows.append(self._windowed.window(rng))
                else:
                    images[i] = self._transform(image, rng)
                if self.config.transform == "affine":
                    moves.append(draw_affine(self.config, rng))
                boxes.append(draw_box(self.config, rng))
                if self._windowed is None:
                    top, left, bottom, right = boxes[i]
                    images[i, :, top:bottom, left:right] = self._fill[:, None, None]
        except AlphaNetError as error:
            return error
        pixels = images if self._windowed is None else _as_windows(shown, windows, boxes)
        thetas = torch.tensor(np.stack(moves), dtype=torch.float32) if moves else None
        return RawBatch(epoch, indices, pixels, self.source.labels[shown], thetas, tuple(broken.items()))

    def indices(self, step: int) -> tuple[int, tuple[int, ...]]:
        """The epoch of a step, from 0, and the images of this process in it."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, generator(self.seed, "order", epoch).permutation(len(self))
        first = position * self.config.batch_size + self.rank * self.batch_size
        return epoch, tuple(map(int, self._order[1][first : first + self.batch_size]))

    def _load(self, epoch: int, index: int, broken: dict[int, str]) -> tuple[Tensor, int]:
        """A prepared image and its index; of a broken one, a substitute drawn from (seed, epoch, index)."""
        try:
            return self._prepared(index), index
        except AlphaNetError as error:
            broken[index] = str(error)
            first = error
        for substitute in generator(self.seed, "substitute", epoch, index).integers(0, len(self), _SUBSTITUTES):
            try:
                return self._prepared(int(substitute)), int(substitute)
            except AlphaNetError as error:
                broken[int(substitute)] = str(error)
        raise AlphaNetError(f"{first} (and {_SUBSTITUTES} others drawn in its place are broken too)")

    def __len__(self) -> int:
        """The number of images."""
        return len(self.source)

    def resident(self) -> ResidentImages | None:
        """The images for the device, if the config's engine keeps them there."""
        if self._windowed is None:
            return None
        assert self._kept is not None
        return ResidentImages(self._kept, self._windowed.border, self._fill)

    def _prepared(self, index: int) -> Tensor:
        """An image after the part of its transform that is the same in every epoch."""
        if self._kept is None:
            image = self.source.load(index)
            return image if self._transform.fixed is None else self._transform.fixed(image)
        if index in self._kept_broken:
            raise AlphaNetError(self._kept_broken[index])
        return self._kept[index]

    def _keep(self) -> None:
        """Prepares every image, and records which are broken."""
        side = self.config.image_size
        kept = torch.zeros((len(self), 3, side, side), dtype=torch.uint8)
        for index in range(len(self)):
            try:
                kept[index] = self._prepared(index)
            except AlphaNetError as error:
                self._kept_broken[index] = str(error)
        self._kept = kept


def _as_windows(shown: list[int], windows: list[Window], boxes: list[Box]) -> Windows:
    """The windows of a batch, as tensors."""
    top, left, flips = zip(*windows, strict=True)
    return Windows(torch.tensor(shown), torch.tensor([top, left]).T, torch.tensor(flips), torch.tensor(boxes))
