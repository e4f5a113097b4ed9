"""The images that a classifier accepts: paths, Pillow images, arrays and tensors. Anything else is refused."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from alphanet_zoo.data.folder import find_images
from alphanet_zoo.data.images import from_pillow, read_image
from alphanet_zoo.errors import UsageError

AnyImage: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8] | Tensor
"""One image; see `decoded`."""


def single_images(images: AnyImage | Iterable[AnyImage]) -> Iterator[AnyImage]:
    """The images of an argument that is one image, a batch ``(N, H, W, 3)`` or ``(N, 3, H, W)``, or several images.

    A path may be that of a folder, or a pattern; see `alphanet_zoo.data.folder.find_images`.

    Raises:
        UsageError: It is something else, or a folder or pattern has no images.
    """
    if isinstance(images, str | os.PathLike):
        yield from find_images(images)
    elif isinstance(images, Image.Image):
        yield images
    elif isinstance(images, np.ndarray | Tensor):
        yield from images if images.ndim == 4 else (images,)
    elif isinstance(images, Iterable) and not isinstance(images, bytes | bytearray | memoryview | dict):
        for image in images:
            yield from find_images(image) if isinstance(image, str | os.PathLike) else (image,)
    else:
        raise UsageError(f"an image has the type {_kind(images)}; pass {_ACCEPTED}")


def decoded(image: AnyImage) -> tuple[Tensor, Path | None]:
    """An image as upright RGB, ``(3, H, W)`` uint8, and its path if it is one.

    Args:
        image: One of these:

            - the path of an image file, see `alphanet_zoo.data.images.decode_image`;
            - a Pillow image of any mode with a fixed range. Its EXIF orientation is followed;
            - a NumPy array ``(H, W, 3)`` uint8, RGB;
            - a tensor ``(3, H, W)``, RGB: uint8 from 0 to 255, or floating point from 0 to 1, which is rounded to 8
              bits. It must not be normalised.

    Raises:
        UsageError: The type, shape, data type or range is another one. Layouts are not guessed.
        AlphaNetError: The file or the Pillow image cannot be decoded.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if path.is_dir():
            raise UsageError(f"{path} is a folder; pass its files: alphanet_zoo.data.folder.list_images({str(path)!r})")
        return read_image(path), path
    if isinstance(image, Image.Image):
        return from_pillow(image), None
    if isinstance(image, np.ndarray):
        return _of_array(image), None
    if isinstance(image, Tensor):
        return _of_tensor(image), None
    raise UsageError(f"an image has the type {_kind(image)}; pass {_ACCEPTED}")


_ACCEPTED = "a path, a Pillow image, a uint8 array (H, W, 3), a tensor (3, H, W), or several of them"


def _of_array(array: npt.NDArray[Any]) -> Tensor:
    """The pixels of a NumPy array."""
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UsageError(f"an array has the shape {array.shape}; pass (H, W, 3), or (N, H, W, 3) for a batch, in RGB")
    if array.dtype != np.uint8:
        raise UsageError(f"an array is {array.dtype}; pass uint8 from 0 to 255, not normalised")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)).copy())


def _of_tensor(tensor: Tensor) -> Tensor:
    """The pixels of a tensor."""
    if tensor.dim() != 3 or tensor.shape[0] != 3 or 0 in tensor.shape:
        raise UsageError(
            f"a tensor has the shape {tuple(tensor.shape)}; pass (3, H, W), or (N, 3, H, W) for a batch, in RGB"
        )
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise UsageError(f"a tensor is {tensor.dtype}; pass uint8 from 0 to 255, or floating point from 0 to 1")
    low, high = float(tensor.min()), float(tensor.max())
    if not (low >= 0.0 and high <= 1.0):
        raise UsageError(
            f"a {tensor.dtype} tensor has values from {low:g} to {high:g}; pass values from 0 to 1 that are not "
            "normalised, or uint8 from 0 to 255"
        )
    return (tensor.float() * 255.0).round().to(torch.uint8)


def _kind(value: object) -> str:
    """The name of a value's type."""
    return type(value).__name__
