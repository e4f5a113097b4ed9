"""The evaluation transform: from a decoded image to the input of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphanet_zoo.errors import UsageError

_FILTERS = {
    "nearest": (Image.Resampling.NEAREST, 0.5),
    "nearest-exact": (Image.Resampling.NEAREST, 0.5),
    "box": (Image.Resampling.BOX, 0.5),
    "bilinear": (Image.Resampling.BILINEAR, 1.0),
    "hamming": (Image.Resampling.HAMMING, 1.0),
    "bicubic": (Image.Resampling.BICUBIC, 2.0),
    "lanczos": (Image.Resampling.LANCZOS, 3.0),
}
"""Pillow's filter of each interpolation, and its support in output pixels."""

MOST_PIXELS = 2**15
"""Largest short side after the resize, in pixels."""
LONGEST_SIDE = 8
"""Of images whose long side is more than this times the short side, only the crop is resized."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side (antialiased), centre crop, scale to [0, 1], normalise.

    Args:
        input_size: Side of the crop, in pixels.
        resize_size: Short side after the resize, in pixels.
        interpolation: 'bicubic', 'bilinear', 'nearest', or another of Pillow's filters.
        mean: Subtracted, one value per channel.
        std: Divided by, one value per channel.

    Source: docs/specification.md, section 4, "Published evaluation".
    """

    input_size: int
    resize_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Converts lists to tuples and checks the values."""
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if self.input_size < 1 or self.resize_size < self.input_size:
            raise ValueError(
                f"preprocessing resizes the short side to {self.resize_size} and crops {self.input_size}; "
                "both must be positive, and the crop no larger than the short side"
            )
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation is {self.interpolation!r}; use one of {', '.join(_FILTERS)}")
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must have three finite values each, std positive")
        if self.resize_size > MOST_PIXELS:
            raise ValueError(f"preprocessing resizes the short side to {self.resize_size}; at most {MOST_PIXELS}")

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> Preprocessing:
        """The transform that a ``pretrained_cfg`` (timm's keys) describes; sizes are rounded down, as in timm."""
        size = int(cfg["input_size"][-1])
        return cls(size, math.floor(size / float(cfg["crop_pct"])), cfg["interpolation"], cfg["mean"], cfg["std"])

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value is out of its domain.
        """
        try:
            return cls(**spec)
        except TypeError as error:
            raise ValueError(f"not a preprocessing: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def for_size(self, input_size: int) -> Preprocessing:
        """The same transform to another crop size, with the same ratio of short side to crop."""
        resize_size = input_size * self.resize_size // self.input_size
        return Preprocessing(input_size, resize_size, self.interpolation, self.mean, self.std)

    def __call__(self, image: Tensor) -> Tensor:
        """The input of a network, normalised.

        Args:
            image: ``(3, H, W)`` uint8, as `alphanet_zoo.data.images.decode_image` returns it.

        Returns:
            ``(3, input_size, input_size)`` float32.
        """
        return self.normalise(self.pixels(image))

    def pixels(self, image: Tensor) -> Tensor:
        """The resized and cropped image, before normalisation.

        Time and memory are bounded by the sizes of the image and of the crop, whatever the image's shape: of an image
        with a ratio of sides above `LONGEST_SIDE`, only the part that the crop shows is resized. Its pixels can then
        differ by one grey level from those of a resize of the whole image; with 'nearest', a few are a neighbour's.

        Args:
            image: ``(3, H, W)`` uint8.

        Returns:
            ``(3, input_size, input_size)`` uint8.

        Raises:
            UsageError: ``image`` is not such a tensor.
        """
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise UsageError(f"an image is {image.dtype} of shape {tuple(image.shape)}; pass uint8 of shape (3, H, W)")
        height, width = image.shape[1:]
        short, long = min(height, width), max(height, width)
        # As torchvision computes and rounds both.
        new_long = int(self.resize_size * long / short)
        new = (self.resize_size, new_long) if width <= height else (new_long, self.resize_size)
        left, top = (round((side - self.input_size) / 2.0) for side in new)
        picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        if long > LONGEST_SIDE * short:
            crop = self._resize_crop(picture, new, left, top)
        else:
            resized = picture if new == (width, height) else picture.resize(new, _FILTERS[self.interpolation][0])
            crop = resized.crop((left, top, left + self.input_size, top + self.input_size))
        return torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous()

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scales ``(..., 3, S, S)`` uint8 to [0, 1], subtracts the mean and divides by the deviation; float32.

        The operations and their order are torchvision's (``to_dtype`` with ``scale``, ``normalize``), to the same bits.
        """
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return pixels.to(torch.float32).mul_(1.0 / 255.0).sub_(mean).div_(std)

    def _resize_crop(self, picture: Image.Image, new: tuple[int, int], left: int, top: int) -> Image.Image:
        """The crop at (left, top) of a picture resized to ``new``, of which nothing else is computed.

        The part of the picture that the crop depends on is cut out at whole pixels first. Rows are resized before
        columns; Pillow's own choice depends on the sizes of the whole.
        """
        resample, support = _FILTERS[self.interpolation]
        window, box = [], []
        for length, resized, start in zip(picture.size, new, (left, top), strict=True):
            scale = length / resized
            low, high = start * scale, (start + self.input_size) * scale
            margin = support * max(scale, 1.0) + 1.0
            first, last = max(math.floor(low - margin), 0), min(math.ceil(high + margin), length)
            window.append((first, last))
            box.append((low - first, min(high, last) - first))
        (x0, x1), (y0, y1) = window
        rows = picture.crop((x0, y0, x1, y1)).resize(
            (self.input_size, y1 - y0), resample, box=(box[0][0], 0, box[0][1], y1 - y0)
        )
        return rows.resize((self.input_size,) * 2, resample, box=(0, box[1][0], self.input_size, box[1][1]))
