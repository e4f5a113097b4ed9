"""AutoAugment on uint8 tensors: the operations of an image are drawn first, as plain values, and then applied.

Operations that map each value of a channel to another are tables of 256 bytes, and Pillow moves pixels, because both
are several times faster than torchvision's tensor kernels. The other operations are torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Counts = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Tables = np.ndarray[tuple[int, int], np.dtype[np.uint8]]
Policy = tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...]
Operations = tuple[tuple[str, float], ...]
"""Names and magnitudes, in the order in which they are applied."""

IMAGENET: Policy = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)
"""Policy v0 for ImageNet: pairs of (operation, probability, level from 0 to 9); some operations do not use their level.

Source: Cubuk et al., 2019, arXiv:1805.09501, table 9.
"""

CIFAR10: Policy = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)
"""The policy for CIFAR-10. Source: Cubuk et al., 2019, arXiv:1805.09501, table 7."""

_SIGNED = {
    "shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0,
    "brightness": 0.9, "color": 0.9, "contrast": 0.9, "sharpness": 0.9,
}  # fmt: skip
"""Magnitude at level 9 of operations with either sign: tangent, share of the side, degrees, or change of a factor."""

_GREYS = np.arange(256)
_RAMP = torch.arange(256, dtype=torch.uint8).view(1, 1, 256).expand(3, -1, -1).contiguous()


def draw_operations(policy: Policy, uniforms: Sequence[float]) -> Operations:
    """The operations of one image.

    Args:
        policy: `IMAGENET` or `CIFAR10`.
        uniforms: Five draws from [0, 1): which pair, and for each of its two operations whether it is applied and its
            sign.
    """
    drawn = []
    for i, (name, probability, level) in enumerate(policy[int(uniforms[0] * len(policy))]):
        if uniforms[1 + 2 * i] < probability:
            sign = -1.0 if uniforms[2 + 2 * i] < 0.5 else 1.0
            drawn.append((name, _magnitude(name, level, sign)))
    return tuple(drawn)


def _magnitude(name: str, level: int, sign: float) -> float:
    """The magnitude of a level from 0 to 9: see `_SIGNED`; bits that remain; the threshold."""
    if name in _SIGNED:
        return sign * _SIGNED[name] * level / 9
    if name == "posterize":
        return float(8 - round(level * 4 / 9))
    return 255.0 * (1.0 - level / 9) if name == "solarize" else 0.0


def apply_operations(image: Tensor, operations: Operations) -> Tensor:
    """Applies operations one after the other.

    Args:
        image: ``(3, H, W)`` uint8.
        operations: As `draw_operations` returns them.

    Returns:
        ``(3, H, W)`` uint8; the same tensor if there are no operations.
    """
    for name, magnitude in operations:
        image = _apply(image, name, magnitude)
    return image


def _apply(image: Tensor, name: str, magnitude: float) -> Tensor:
    """One operation."""
    result: Tensor
    if name in ("equalize", "autocontrast"):
        return _map_channels(image, equalize_tables if name == "equalize" else autocontrast_tables)
    if name.startswith(("rotate", "shear", "translate")):
        return _move(image, name, magnitude)
    from torchvision.transforms.v2 import functional as TF  # Importing it takes as long as importing torch.

    if name == "posterize":
        result = TF.posterize(image, int(magnitude))
    elif name == "invert":
        result = TF.invert(image)
    elif name == "solarize":
        result = _map_all(image, TF.solarize(_RAMP, magnitude)[0])
    elif name == "brightness":
        result = _map_all(image, TF.adjust_brightness(_RAMP, 1.0 + magnitude)[0])
    elif name == "color":
        result = TF.adjust_saturation(image, 1.0 + magnitude)
    elif name == "contrast":
        result = TF.adjust_contrast(image, 1.0 + magnitude)
    else:
        assert name == "sharpness", name
        result = TF.adjust_sharpness(image, 1.0 + magnitude)
    return result


def equalize_tables(histograms: Counts) -> Tables:
    """Tables that spread each channel's greys evenly, as Pillow's ``ImageOps.equalize`` does.

    Args:
        histograms: ``(3, 256)`` counts.

    Returns:
        ``(3, 256)`` uint8.
    """
    last = 255 - (histograms[:, ::-1] > 0).argmax(1)
    step = (histograms.sum(1) - histograms[np.arange(len(histograms)), last])[:, None] // 255
    below = np.cumsum(histograms, 1) - histograms
    spread = np.minimum((below + step // 2) // np.maximum(step, 1), 255)
    return np.where(step == 0, _GREYS, spread).astype(np.uint8)


def autocontrast_tables(histograms: Counts) -> Tables:
    """Tables that stretch each channel's greys over the whole range; shapes as `equalize_tables`."""
    low = (histograms > 0).argmax(1)[:, None]
    high = 255 - (histograms[:, ::-1] > 0).argmax(1)[:, None]
    stretched = ((_GREYS - low) * 255 // np.maximum(high - low, 1)).clip(0, 255)
    return np.where(high <= low, _GREYS, stretched).astype(np.uint8)


def _map_channels(image: Tensor, tables_of: Callable[[Counts], Tables]) -> Tensor:
    """Maps the values of each channel by the table of its histogram; the result is channels-first in memory."""
    planes = image.contiguous()
    counts = torch.stack([torch.bincount(plane.view(-1), minlength=256) for plane in planes])
    tables = tables_of(counts.numpy())
    mapped = [plane.tobytes().translate(table.tobytes()) for plane, table in zip(planes.numpy(), tables, strict=True)]
    return torch.frombuffer(bytearray().join(mapped), dtype=torch.uint8).view(planes.shape)


def _map_all(image: Tensor, table: Tensor) -> Tensor:
    """Maps all greys by one table of 256."""
    pixels = image.permute(1, 2, 0)
    greys = bytearray(pixels.numpy().tobytes().translate(table.numpy().tobytes()))
    return torch.frombuffer(greys, dtype=torch.uint8).view(pixels.shape).permute(2, 0, 1)


def _move(image: Tensor, name: str, magnitude: float) -> Tensor:
    """Takes each pixel from the one nearest to where it was before the move; black if that is outside."""
    height, width = image.shape[1:]
    moved = Image.fromarray(image.permute(1, 2, 0).numpy()).transform(
        (width, height), Image.Transform.AFFINE, _origins(name, magnitude, width, height), Image.Resampling.NEAREST
    )
    return torch.from_numpy(np.array(moved)).permute(2, 0, 1)


def _origins(name: str, magnitude: float, width: int, height: int) -> tuple[float, ...]:
    """The affine map ``(a, b, c, d, e, f)`` from a place to where its pixel was: x = a x + b y + c, y = d x + e y + f.

    Shears keep the first row or column in place; turns, anticlockwise, keep the middle.
    """
    if name == "rotate":
        cosine, sine = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
        x, y = width / 2, height / 2
        return (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)
    if name.startswith("shear"):
        return (1.0, magnitude, 0.0, 0.0, 1.0, 0.0) if name == "shear_x" else (1.0, 0.0, 0.0, magnitude, 1.0, 0.0)
    if name == "translate_x":
        return (1.0, 0.0, -float(int(magnitude * width)), 0.0, 1.0, 0.0)
    return (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(magnitude * height)))
