"""Image corruptions of five severities, to measure the robustness of a classifier.

They are applied to the resized and cropped image, before normalisation. Their kinds follow ImageNet-C (Hendrycks and
Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", 2019). Implementations
and parameters are this package's own, so accuracies cannot be compared with those published for ImageNet-C.

A corruption is a function of (image, severity, seed, index): it does not depend on the other images, their order, the
batch size or the runtime.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)

Pixels = npt.NDArray[np.float64]
"""``(H, W, 3)``, from 0 to 1."""


def _gaussian_noise(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    return pixels + rng.normal(scale=deviation, size=pixels.shape)


def _shot_noise(pixels: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    return rng.poisson(pixels * photons) / photons


def _impulse_noise(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    drawn = rng.random(pixels.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, pixels))


def _gaussian_blur(pixels: Pixels, radius: float, rng: np.random.Generator) -> Pixels:
    deviation = radius * min(pixels.shape[:2])
    return _from_picture(_picture(pixels).filter(ImageFilter.GaussianBlur(deviation)))


def _jpeg_compression(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    with io.BytesIO() as file:
        _picture(pixels).save(file, "JPEG", quality=int(quality))
        return _from_picture(Image.open(file, formats=("JPEG",)))


def _brightness(pixels: Pixels, added: float, rng: np.random.Generator) -> Pixels:
    return pixels + added


def _contrast(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    mean: Pixels = pixels.mean(axis=(0, 1))
    return mean + factor * (pixels - mean)


def _pixelate(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    picture = _picture(pixels)
    small = (max(1, round(factor * picture.width)), max(1, round(factor * picture.height)))
    return _from_picture(picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST))


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption.

    Args:
        name: Its name.
        parameter: What its parameter is.
        values: The parameter at each of `SEVERITIES`.
        function: Maps pixels, parameter and generator to pixels, which are clipped to 0 and 1 afterwards.
    """

    name: str
    parameter: str
    values: tuple[float, float, float, float, float]
    function: Callable[[Pixels, float, np.random.Generator], Pixels]

    def __call__(self, image: Tensor, severity: int, *, seed: int, index: int) -> Tensor:
        """The corrupted image.

        Args:
            image: ``(3, H, W)`` uint8.
            severity: One of `SEVERITIES`.
            seed: Seed of the random corruptions.
            index: Index of the image.

        Returns:
            ``(3, H, W)`` uint8.

        Raises:
            ValueError: The severity is not one of `SEVERITIES`.
        """
        if severity not in SEVERITIES:
            raise ValueError(f"the severity is {severity}; pass 1, 2, 3, 4 or 5")
        rng = np.random.default_rng([seed, index, _PLACES[self.name], severity])
        pixels = image.permute(1, 2, 0).numpy().astype(np.float64) / 255.0
        corrupted = self.function(pixels, self.values[severity - 1], rng)
        return torch.from_numpy(_levels(corrupted)).permute(2, 0, 1).contiguous()


CORRUPTIONS = (
    Corruption("gaussian noise", "standard deviation, full scale 1", (0.04, 0.08, 0.12, 0.18, 0.26), _gaussian_noise),
    Corruption("shot noise", "photons at full scale", (250, 100, 50, 25, 12), _shot_noise),
    Corruption("impulse noise", "share of the samples set to 0 or 1", (0.01, 0.03, 0.06, 0.12, 0.2), _impulse_noise),
    Corruption("gaussian blur", "standard deviation / side", (0.005, 0.009, 0.014, 0.02, 0.028), _gaussian_blur),
    Corruption("JPEG compression", "quality", (50, 30, 20, 12, 7), _jpeg_compression),
    Corruption("brightness", "added, full scale 1", (0.1, 0.2, 0.3, 0.4, 0.5), _brightness),
    Corruption("contrast", "factor around the mean colour", (0.6, 0.45, 0.3, 0.2, 0.1), _contrast),
    Corruption("pixelate", "side of the reduced image / side", (0.6, 0.5, 0.4, 0.3, 0.2), _pixelate),
)
"""All corruptions. Their order is part of the seed of each random corruption."""
_PLACES = {corruption.name: place for place, corruption in enumerate(CORRUPTIONS)}


def _levels(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """Pixels clipped to 0 and 1 and rounded to 256 levels."""
    return np.rint(255.0 * pixels.clip(0.0, 1.0)).astype(np.uint8)


def _picture(pixels: Pixels) -> Image.Image:
    """Pixels as a Pillow image."""
    return Image.fromarray(_levels(pixels))


def _from_picture(picture: Image.Image) -> Pixels:
    """A Pillow image as pixels."""
    return np.asarray(picture, dtype=np.float64) / 255.0
