"""From an image file to a network's input, as the published evaluation does it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from alphanet_zoo.errors import AlphaNetError, UsageError

IMAGE_ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side (antialiased), centre crop, scale to [0, 1], normalise.

    Args:
        input_size: Side of the crop, in pixels.
        resize_size: Short side after the resize, in pixels.
        interpolation: 'bicubic', 'bilinear' or 'nearest'.
        mean: Subtracted, one a channel.
        std: Divided by, one a channel.

    Source: docs/specification.md, section 4, "Published evaluation".
    """

    input_size: int
    resize_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Normalises lists to tuples and checks the values."""
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if self.input_size < 1 or self.resize_size < self.input_size:
            raise ValueError(
                f"preprocessing resizes the short side to {self.resize_size} and crops {self.input_size}; "
                "give positive sizes, the crop no larger"
            )
        if self.interpolation not in {mode.value for mode in InterpolationMode}:
            raise ValueError(f"interpolation is {self.interpolation!r}; give bicubic, bilinear or nearest")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must have three values each, std positive")

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> Preprocessing:
        """What a ``pretrained_cfg`` (timm's keys) describes."""
        size = int(cfg["input_size"][-1])
        return cls(size, round(size / float(cfg["crop_pct"])), cfg["interpolation"], cfg["mean"], cfg["std"])

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
        """The same for another crop, with this one's ratio of short side to crop."""
        resize_size = round(input_size * self.resize_size / self.input_size)
        return Preprocessing(input_size, resize_size, self.interpolation, self.mean, self.std)

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL image of any mode to a float32 tensor ``(3, input_size, input_size)``."""
        rgb = image.convert("RGB")
        rgb = TF.resize(rgb, [self.resize_size], InterpolationMode(self.interpolation), antialias=True)
        rgb = TF.center_crop(rgb, [self.input_size, self.input_size])
        tensor = TF.to_dtype(TF.pil_to_tensor(rgb), torch.float32, scale=True)
        normalised: Tensor = TF.normalize(tensor, list(self.mean), list(self.std))
        return normalised


class ImageFolder:
    """Images in one folder a class, classes and files in the order of their names.

    Attributes:
        root: The folder.
        classes: Names of its folders.
        samples: Path and class index of every image, at any depth below its class's folder.

    Raises:
        UsageError: No such folder, or no image in it.
    """

    def __init__(self, root: str | Path) -> None:
        """Lists the images below ``root``; reads none."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise UsageError(f"no such folder: {self.root}; give one with a folder a class, each with its images")
        self.classes = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        self.samples = [
            (path, index)
            for index, name in enumerate(self.classes)
            for path in sorted((self.root / name).rglob("*"))
            if path.suffix.lower() in IMAGE_ENDINGS and path.is_file()
        ]
        if not self.samples:
            raise UsageError(f"{self.root} holds no images; give a folder with a folder a class, each with its images")

    def __len__(self) -> int:
        """The number of images."""
        return len(self.samples)

    def batches(
        self, preprocessing: Preprocessing, batch_size: int, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images ``(N, 3, S, S)`` and labels ``(N,)``, in order; the last batch may be smaller.

        ``limit`` takes that many images spread evenly over the folder, so that all classes are seen.

        Raises:
            AlphaNetError: An image cannot be read; the message names the file.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        count = len(self.samples) if limit is None else min(limit, len(self.samples))
        chosen = [self.samples[i * len(self.samples) // count] for i in range(count)]
        for start in range(0, count, batch_size):
            batch = chosen[start : start + batch_size]
            images = torch.stack([preprocessing(read_image(path)) for path, _ in batch])
            yield images, torch.tensor([label for _, label in batch])


def split_folder(folder: ImageFolder, held_out: int) -> tuple[ImageFolder, ImageFolder]:
    """A folder without the images that training with ``data.hold_out`` keeps out, and those.

    Args:
        folder: All training images.
        held_out: How many are held out.

    Raises:
        UsageError: The folder has no more than that.
    """
    labels = np.array([label for _, label in folder.samples], dtype=np.int64)
    parts = []
    for chosen in split_labels(labels, held_out, str(folder.root)):
        part = copy.copy(folder)
        part.samples = [folder.samples[i] for i in chosen]
        parts.append(part)
    return parts[0], parts[1]


def split_labels(
    labels: npt.NDArray[np.int64], held_out: int, name: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A fixed random choice of images, even over the classes to one image, and the rest.

    Args:
        labels: ``(N,)`` class of each image.
        held_out: How many are chosen, from 1 to N - 1.
        name: What the error calls the images.

    Returns:
        Ascending indices of the rest, and of the chosen ones.

    Raises:
        UsageError: There are no more images than ``held_out``.
    """
    if not 0 < held_out < len(labels):
        raise UsageError(
            f"{name} has {len(labels)} images, and {held_out} are to be held out; give 1 to fewer than all"
        )
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = by_class[np.arange(held_out) * len(labels) // held_out]
    return np.setdiff1d(np.arange(len(labels)), chosen), np.sort(chosen)


def read_image(path: Path) -> Image.Image:
    """The image in a file, decoded, in RGB.

    Raises:
        AlphaNetError: It is damaged, no image, or announces more pixels than PIL deems safe.
    """
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image = Image.open(path)
        with image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise AlphaNetError(f"cannot read the image {path}: {error}; remove or replace it") from error
