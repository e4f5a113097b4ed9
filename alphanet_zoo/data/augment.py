"""The training transforms: each is a function of the image and of a random generator that is used for it alone.

A transform goes from uint8 to uint8. `normalise` turns a whole batch of its images into a network's input, on the
training device, so that a quarter of the bytes is copied there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alphanet_zoo.data.autoaugment import CIFAR10, IMAGENET, Policy, apply_operations, draw_operations
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.preprocess import Preprocessing

Window = tuple[int, int, bool]
"""Top and left of a crop of an image with its transform's border, and whether the crop is flipped."""
Box = tuple[int, int, int, int]
"""Top, left, bottom and right of a rectangle; it excludes the last two."""
_DRAWS = 6
"""Numbers that `_flip_and_augment` takes."""


class Transform(Protocol):
    """A part that is the same in every epoch, which can be done once, and a random part."""

    @property
    def fixed(self) -> Callable[[Tensor], Tensor] | None:
        """From ``(3, H, W)`` uint8 to ``(3, S, S)`` uint8; None if nothing can be done ahead."""

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Varies the result of ``fixed``; ``(3, S, S)`` uint8."""


@dataclass(frozen=True)
class ImageNetTransform:
    """A random crop resized (bicubic, antialiased), a flip, and AutoAugment's ImageNet policy if requested.

    Source: docs/specification.md, section 6.
    """

    size: int
    autoaugment: bool
    fixed: None = None

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Transform`."""
        top, left, height, width = draw_crop(image.shape[1], image.shape[2], rng)
        # The batch dimension is added in front of rows of pixels, so that torch sees the cut as channels-last, too.
        batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        cut = batch[:, :, top : top + height, left : left + width]
        crop = F.interpolate(cut, (self.size, self.size), mode="bicubic", antialias=True)[0]
        return _flip_and_augment(crop, rng.random(_DRAWS), IMAGENET if self.autoaugment else None)


@dataclass(frozen=True)
class CifarTransform:
    """A crop moved by up to 4 pixels, a flip, and AutoAugment's CIFAR-10 policy if requested.

    Beyond its edges, the image is continued by reflection. With a black border, a network learns to expect one: trained
    for 115 epochs, it classified 89.2 % of 1,000 unseen images, and 91.4 % of them with a border in sight. Images of
    another size than ``size`` are resized to it first (bicubic, antialiased).
    """

    size: int
    autoaugment: bool
    border: int = 4

    def fixed(self, image: Tensor) -> Tensor:
        """See `Transform`."""
        if image.shape[1:] == (self.size, self.size):
            return image
        return F.interpolate(image[None], (self.size, self.size), mode="bicubic", antialias=True)[0]

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Transform`."""
        top, left = map(int, rng.integers(0, 2 * self.border + 1, 2))
        rows, columns = (reflected(start, self.border, self.size) for start in (top, left))
        crop = image[:, rows[:, None], columns]
        return _flip_and_augment(crop, rng.random(_DRAWS), CIFAR10 if self.autoaugment else None)

    def window(self, rng: np.random.Generator) -> Window:
        """The crop and flip that a call would make, for a device that makes those of a whole batch."""
        top, left = map(int, rng.integers(0, 2 * self.border + 1, 2))
        return top, left, rng.random(_DRAWS)[0] < 0.5


@dataclass(frozen=True)
class CentreCrop:
    """The resize and crop of the evaluation; `warp` moves whole batches of them by what `draw_affine` draws."""

    geometry: Preprocessing
    border: int = 0

    def fixed(self, image: Tensor) -> Tensor:
        """See `Transform`."""
        return self.geometry.pixels(image)

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Transform`."""
        return image

    def window(self, rng: np.random.Generator) -> Window:
        """All of the image, as a call returns it."""
        return 0, 0, False


def make_transform(config: DataConfig, preprocessing: Preprocessing) -> Transform:
    """The config's transform, to its ``image_size``; ``preprocessing`` sets the ratio of the centre crop."""
    if config.transform == "imagenet":
        return ImageNetTransform(config.image_size, config.autoaugment)
    if config.transform == "cifar":
        return CifarTransform(config.image_size, config.autoaugment)
    return CentreCrop(preprocessing.for_size(config.image_size))


def reflected(start: int | Tensor, border: int, size: int) -> Tensor:
    """The places in an image that ``size`` places from ``start`` on show, in the image continued by reflection.

    Args:
        start: From 0, which is ``border`` pixels outside the image, to twice ``border``; or ``(N, 1)`` of them.
        border: Pixels, less than ``size``.
        size: Side of the image.

    Returns:
        ``(size,)`` or ``(N, size)`` int64.
    """
    device = start.device if isinstance(start, Tensor) else None
    places = (torch.arange(size, device=device) + (start - border)).abs()
    return torch.minimum(places, 2 * (size - 1) - places)


def draw_box(config: DataConfig, rng: np.random.Generator) -> Box:
    """The rectangle that `DataConfig.erasing` fills: 2 to 33 % of the image, with sides in a ratio from 0.3 to 3.3.

    Empty if the image is left as it is. Source: Zhong et al., 2017, arXiv:1708.04896, algorithm 1.
    """
    side = config.image_size
    if not config.erasing or rng.random() >= config.erasing:
        return 0, 0, 0, 0
    area, ratio, top, left = rng.random(4).tolist()
    pixels, shape = side * side * (0.02 + (1 / 3 - 0.02) * area), 0.3 * (3.3 / 0.3) ** ratio
    height, width = (
        min(max(round(length), 1), side) for length in (math.sqrt(pixels * shape), math.sqrt(pixels / shape))
    )
    top, left = int(top * (side - height + 1)), int(left * (side - width + 1))
    return top, left, top + height, left + width


def draw_crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box anywhere in the image, of 8 to 100 % of its area and with sides in a ratio from 3/4 to 4/3.

    After ten boxes that do not fit, the largest central one of a ratio in that range.

    Returns:
        Top, left, height, width.

    Source: Szegedy et al., 2015, arXiv:1409.4842, section 6, with the constants that ImageNet training has used since.
    """
    low, high = 3 / 4, 4 / 3
    for area, ratio, top, left in rng.random((10, 4)).tolist():
        pixels = height * width * (0.08 + 0.92 * area)
        shape = math.exp(math.log(low) + (math.log(high) - math.log(low)) * ratio)
        box_width, box_height = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < box_width <= width and 0 < box_height <= height:
            return int(top * (height - box_height + 1)), int(left * (width - box_width + 1)), box_height, box_width
    box_width, box_height = min(width, round(height * high)), min(height, round(width / low))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _flip_and_augment(image: Tensor, draws: np.ndarray[tuple[int], Any], policy: Policy | None) -> Tensor:
    """A flip of half of the images, then what AutoAugment draws."""
    flip, *uniforms = draws.tolist()
    if flip < 0.5:
        image = image.flip(2)
    return image if policy is None else apply_operations(image, draw_operations(policy, uniforms))


def draw_affine(config: DataConfig, rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """A small rotation, zoom and shift of one image, ``(2, 3)`` as `warp` takes it."""
    turn, zoom, x, y = rng.uniform(-1.0, 1.0, 4)
    angle, scale = math.radians(config.rotate_degrees * turn), 1.0 / (1.0 + config.zoom * zoom)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cosine, -sine, 2 * config.shift * x], [sine, cosine, 2 * config.shift * y]])


def warp(images: Tensor, thetas: Tensor) -> Tensor:
    """Samples ``(N, 3, S, S)`` images at affinely moved places, bilinearly; the border's pixels are repeated beyond it.

    Args:
        images: Float images.
        thetas: ``(N, 2, 3)``, from an output place to the input place, in units of half a side.
    """
    grid = F.affine_grid(thetas, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """``(values,)`` float32 on a device. It is created once, because creating it waits for a GPU; do not change it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scales ``(N, 3, H, W)`` greys from 0 to 255 to [0, 1], subtracts ``mean`` and divides by ``std``.

    Returns:
        Float32; channels-last in memory if the images are.
    """
    scale = constant(tuple(1.0 / (255.0 * s) for s in std), images.device)
    offset = constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), images.device)
    rows = images.permute(0, 2, 3, 1)
    if images.device.type != "cpu" or not rows.is_contiguous():
        return torch.addcmul(offset.view(3, 1, 1), images.float(), scale.view(3, 1, 1))
    # In long rows, because broadcasting over three innermost channels is slow; image by image, to stay in the cache.
    count, height, width, _ = rows.shape
    scale, offset = scale.repeat(width), offset.repeat(width)
    values = torch.empty((count, height, 3 * width))
    for row, value in zip(rows.reshape(values.shape), values, strict=True):
        torch.addcmul(offset, row.float(), scale, out=value)
    return values.view(rows.shape).permute(0, 3, 1, 2)
