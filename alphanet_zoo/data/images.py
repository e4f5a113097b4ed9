"""From the bytes of an image file to a uint8 RGB tensor: the only reader of images in the package.

libjpeg-turbo (through torchvision) decodes ordinary JPEG files; Pillow decodes everything else. Both give the same
pixels. torchvision 0.29 deprecates the Python function ``decode_jpeg`` but keeps the operator under it, which is called
here; if a torchvision has no such operator, Pillow decodes every image. Only the library with the operator is loaded,
because importing torchvision takes as long as importing torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.files import open_regular

IMAGE_ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".webp")
)
"""Endings, in lower case, of the files that count as images. The content decides how a file is decoded."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Accepted formats, by Pillow's names. Containers of other formats (ICO, ICNS, EPS, PDF) are refused."""

PIXEL_LIMIT = 89_478_485
"""Largest number of pixels of an image; Pillow's limit too."""

_RGB = 3
"""torchvision.io.ImageReadMode.RGB."""


def _jpeg_operator() -> Callable[..., Tensor] | None:
    """Torchvision's operator that decodes a JPEG; None if it has none."""
    origin = spec.origin if (spec := importlib.util.find_spec("torchvision")) else None
    for path in sorted(Path(origin).parent.glob("image*")) if origin else ():
        if path.suffix in (".so", ".pyd", ".dylib"):
            with contextlib.suppress(OSError):
                torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    if not hasattr(torch.ops.image, "decode_jpeg"):
        importlib.import_module("torchvision.io")
    return getattr(torch.ops.image, "decode_jpeg", None)


_JPEG_OPERATOR = _jpeg_operator()
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame, of any coding."""
_SEGMENT_MARKERS = frozenset((0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)))
"""JPEG markers of the segments that may precede the frame. Decoders do not agree on the length of others."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the value of its EXIF orientation tag."""


@dataclass(frozen=True)
class ImageHeader:
    """Size and kind of an encoded image, before any pixel is decoded.

    Attributes:
        width: Pixels per row of the upright image.
        height: Rows of the upright image.
        plain_jpeg: Whether it is a JPEG of 8 bits with one or three channels, which libjpeg-turbo decodes here.
    """

    width: int
    height: int
    plain_jpeg: bool


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """The image in a file, see `decode_image`.

    Raises:
        AlphaNetError: The file cannot be read, or as in `decode_image`. The message names it.
    """
    return decode_image(read_file(path), str(path))


def read_file(path: str | os.PathLike[str]) -> bytearray:
    """The content of a regular file, in memory that a tensor can share.

    Raises:
        AlphaNetError: It cannot be read; the message names it.
    """
    try:
        with open_regular(path) as file:
            content = bytearray(os.fstat(file.fileno()).st_size)
            read = file.readinto(content)
            return content[:read] + file.read() if read < len(content) else content
    except OSError as error:
        reason = error.strerror or str(error)
        if os.path.islink(path) and not os.path.exists(path):
            reason = f"link to {os.readlink(path)}, which does not exist"
        raise AlphaNetError(f"cannot read the image {path}: {reason}") from error


def decode_image(content: bytes | bytearray, name: str, *, pixel_limit: int = PIXEL_LIMIT) -> Tensor:
    """Decodes an image file to upright RGB.

    The EXIF orientation is followed. Grey, palette and CMYK images are converted to RGB, transparency is dropped, and
    samples of 16 bits keep their upper 8. Of an animation, the first frame is decoded.

    Args:
        content: The whole file; a bytearray is not copied.
        name: Name of the image in error messages.
        pixel_limit: An image with more pixels is refused before memory for them is allocated.

    Returns:
        ``(3, H, W)`` uint8, H and W at least 1; channels-last in memory if it is an ordinary JPEG.

    Raises:
        AlphaNetError: The image is damaged, truncated, empty, too large, not of one of `FORMATS`, or has 32-bit or
            float samples, which have no fixed range.
    """
    with _translated(name):
        header = _jpeg_header(content)
    if header is not None:
        _check_size(header.width, header.height, name, pixel_limit)
        if header.plain_jpeg and _JPEG_OPERATOR is not None:
            encoded = content if isinstance(content, bytearray) else bytearray(content)
            try:
                return _JPEG_OPERATOR(torch.frombuffer(encoded, dtype=torch.uint8), _RGB, True)
            except RuntimeError:
                pass  # Pillow decodes some unusual files, and has better messages for broken ones.
    return _decode_with_pillow(content, name, pixel_limit)


def read_header(content: bytes | bytearray, name: str) -> ImageHeader:
    """Size and kind of an encoded image, without decoding it.

    Raises:
        AlphaNetError: It is not an image of one of `FORMATS`.
    """
    with _translated(name):
        image = _open(content)
        width, height = image.size
        if image.format != "TIFF" and _orientation(image) >= 5:  # Pillow gives the upright size of a TIFF.
            width, height = height, width
        header = _jpeg_header(content)
    return ImageHeader(width, height, header is not None and header.plain_jpeg)


def _check_size(width: int, height: int, name: str, pixel_limit: int) -> None:
    """Raises if an image has more pixels than the limit."""
    if width * height > pixel_limit:
        raise AlphaNetError(
            f"cannot read the image {name}: its header announces {width} x {height} pixels, more than {pixel_limit:,}; "
            "remove or shrink it"
        )


def _jpeg_header(content: bytes | bytearray) -> ImageHeader | None:
    """The frame header of a JPEG, as stored; None if there is none."""
    if content[:2] != b"\xff\xd8":
        return None
    place, end = 2, len(content)
    while place + 9 < end and content[place] == 0xFF:
        marker = content[place + 1]
        length = int.from_bytes(content[place + 2 : place + 4])
        if marker == 0xFF:
            place += 1
        elif marker in _FRAME_MARKERS:
            height, width = (int.from_bytes(content[place + i : place + i + 2]) for i in (5, 7))
            plain = content[place + 4] == 8 and content[place + 9] in (1, 3) and height > 0 and width > 0
            return ImageHeader(width, height, plain)
        elif marker not in _SEGMENT_MARKERS or length < 2:
            raise ValueError(f"its JPEG header has the marker FF{marker:02X} before the frame")
        else:
            place += 2 + length
    return None


def _decode_with_pillow(content: bytes | bytearray, name: str, pixel_limit: int) -> Tensor:
    """Decodes any mode of `FORMATS` that has a fixed range."""
    with _translated(name):
        image = _open(content)
        _check_size(image.width, image.height, name, pixel_limit)
        return _upright_rgb(image)


def from_pillow(image: Image.Image, name: str = "(PIL image)") -> Tensor:
    """A Pillow image as upright RGB, ``(3, H, W)`` uint8; the pixels are those of `decode_image` for its file.

    The EXIF orientation is followed if the image still has it; ``ImageOps.exif_transpose`` removes it.

    Raises:
        AlphaNetError: As in `decode_image`.
    """
    with _translated(name):
        if 0 in image.size:
            raise ValueError(f"it has {image.width} x {image.height} pixels")
        return _upright_rgb(image)


def _upright_rgb(image: Image.Image) -> Tensor:
    """Decodes a Pillow image to ``(3, H, W)`` uint8."""
    image.load()
    rgb = _to_rgb(image)
    turn = _UPRIGHT.get(_orientation(image))
    array = np.array(rgb if turn is None else rgb.transpose(turn))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB; of 16 bits the upper 8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its samples (mode {image.mode}) have no fixed range; convert it to 8 or 16 bits per channel")
    image = image.convert("RGBA") if "transparency" in image.info else image
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Metadata is often damaged in images that are whole.
        return 1


def _open(content: bytes | bytearray) -> Image.Image:
    """An image whose pixels are not decoded yet; `_check_size` replaces Pillow's warning about its size."""
    if not content:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"it is not an image in a supported format ({', '.join(FORMATS)}), or it is truncated"
        ) from error


class _translated:
    """Turns any exception of a decoder into an `AlphaNetError` that names the image."""

    def __init__(self, name: str) -> None:
        """Takes the image's name."""
        self.name = name

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raises the translated error."""
        if isinstance(error, Exception) and not isinstance(error, AlphaNetError):
            reason = str(error) or type(error).__name__
            raise AlphaNetError(f"cannot read the image {self.name}: {reason}; remove or replace it") from error
