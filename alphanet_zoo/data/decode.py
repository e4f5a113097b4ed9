"""From an image file to a tensor: libjpeg-turbo through torchvision, Pillow for what that does not take.

torchvision 0.29 deprecates the Python function ``decode_jpeg`` and keeps the operator under it, which is called here.
Both decoders give the same pixels; where a torchvision has no such operator, Pillow takes every image.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode

from alphanet_zoo.errors import AlphaNetError

PIXEL_LIMIT = 89_478_485
"""Pixels that a header may announce; Pillow's limit too."""

_JPEG_OPERATOR = getattr(torch.ops.image, "decode_jpeg", None)
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame, whatever its coding."""


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image before a pixel is decoded.

    Attributes:
        width: Pixels a row.
        height: Rows.
        plain_jpeg: A JPEG of 8 bits with one or three channels, which `decode_jpeg` takes.
    """

    width: int
    height: int
    plain_jpeg: bool


def read_file(path: str | os.PathLike[str]) -> bytearray:
    """A file's content, in memory that a tensor may share.

    Raises:
        AlphaNetError: It cannot be read; the message names it.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            content = bytearray(os.fstat(file.fileno()).st_size)
            read = file.readinto(content)
            return content[:read] + file.read() if read < len(content) else content
    except OSError as error:
        raise AlphaNetError(f"cannot read the image {path}: {error.strerror or error}") from error


def decode_file(path: str | os.PathLike[str]) -> Tensor:
    """`decode_image` of a file."""
    return decode_image(read_file(path), str(path))


def decode_image(content: bytes | bytearray, name: str, *, pixel_limit: int = PIXEL_LIMIT) -> Tensor:
    """Decodes an encoded image, in RGB whatever its own mode.

    Orientation tags are not followed and transparency is dropped, as in training on ImageNet everywhere. Samples of
    16 bits keep their upper 8.

    Args:
        content: The whole file; a bytearray is not copied.
        name: What errors call it.
        pixel_limit: Images that announce more pixels are refused before memory for them is taken.

    Returns:
        ``(3, H, W)`` uint8; a JPEG's is channels-last in memory.

    Raises:
        AlphaNetError: It is damaged, cut short, empty, no image, of a mode without a fixed range, or too large.
    """
    header = read_header(content, name)
    if header.width * header.height > pixel_limit:
        raise AlphaNetError(
            f"cannot read the image {name}: its header announces {header.width} x {header.height} pixels, "
            f"more than {pixel_limit:,}; remove or shrink it"
        )
    if header.plain_jpeg and _JPEG_OPERATOR is not None:
        encoded = torch.frombuffer(content if isinstance(content, bytearray) else bytearray(content), dtype=torch.uint8)
        try:
            image: Tensor = _JPEG_OPERATOR(encoded, ImageReadMode.RGB.value, False)
            return image
        except RuntimeError:
            pass  # Pillow takes what is odd, and says better what is broken.
    return _decode_with_pillow(content, name)


def read_header(content: bytes | bytearray, name: str) -> ImageHeader:
    """Size and kind of an encoded image, without decoding it.

    Raises:
        AlphaNetError: It is no image.
    """
    return _jpeg_header(content) or _pillow_header(content, name)


def _jpeg_header(content: bytes | bytearray) -> ImageHeader | None:
    """The frame header of a JPEG; None where there is none to be found."""
    if content[:2] != b"\xff\xd8":
        return None
    place, end = 2, len(content)
    while place + 9 < end and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in _FRAME_MARKERS:
            height, width = (int.from_bytes(content[place + i : place + i + 2]) for i in (5, 7))
            plain = content[place + 4] == 8 and content[place + 9] in (1, 3) and height > 0 and width > 0
            return ImageHeader(width, height, plain)
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None


def _pillow_header(content: bytes | bytearray, name: str) -> ImageHeader:
    """The size that Pillow finds, in any format it knows."""
    with _translated(name):
        image = _open(content)
        return ImageHeader(image.width, image.height, False)


def _decode_with_pillow(content: bytes | bytearray, name: str) -> Tensor:
    """Any mode of any format that Pillow reads; for 16 bits, the upper 8."""
    with _translated(name):
        image = _open(content)
        if image.mode.startswith("I;16"):
            array = (np.asarray(image) >> 8).astype(np.uint8)[..., None].repeat(3, axis=2)
        elif image.mode in ("I", "F"):
            raise ValueError(f"its samples (mode {image.mode}) have no fixed range")
        else:
            image = image.convert("RGBA") if "transparency" in image.info else image
            array = np.array(image.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _open(content: bytes | bytearray) -> Image.Image:
    """A lazily opened image; the caller has checked its size, so Pillow's own warning would say it twice."""
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(io.BytesIO(content))


class _translated:
    """Turns whatever Pillow raises into an `AlphaNetError` that names the image."""

    def __init__(self, name: str) -> None:
        """Remembers the name."""
        self.name = name

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raises the translated error."""
        expected = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError)
        if isinstance(error, (*expected, Image.DecompressionBombError)):
            raise AlphaNetError(f"cannot read the image {self.name}: {error}; remove or replace it") from error
