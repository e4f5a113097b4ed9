"""Parity: whether an exported file computes what its network computes."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.nn import functional as F

from alphanet_export.embedding import Embedding
from alphanet_export.formats import format_of
from alphanet_export.onnx_model import LEAST_PROBABILITY, FloatArray, ImageArray, open_session, run_logits
from alphanet_export.runtimes.runtime import Runtime, open_runtime
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError, ParityError

TOLERANCE = 2e-5
"""Largest relative error that a float32 export may have (docs/verify.md says how it was chosen)."""

ROUNDING_FACTOR = 4.0
"""A file may also differ from PyTorch by this many times PyTorch's own rounding error, that of float32 from float64."""
LARGEST_TOLERANCE = 1e-4
"""Limit of the tolerance that follows from the rounding error; a channel scaled by 1.1 gives larger errors."""

INT8_LEAST_DB = 10.0
"""Smallest signal-to-noise ratio of the logits of an int8 file, in decibels (docs/verify.md says how it was chosen).
Kernels round differently, so the error of single logits does not separate a correct int8 file from a broken one."""

LOUDEST_DB = 150.0
"""Largest signal-to-noise ratio reported, in decibels; more than float32 can represent."""

PARITY_LEVELS = ("basic", "all")
"""ONNX Runtime's optimisation levels at which parity must hold."""

EMBEDDED_TOLERANCES = {"openvino": 1e-3}
"""Tolerance for formats whose embedded preprocessing can differ from Pillow's by a grey level."""

SYNTHETIC_IMAGES = 8
"""Number of synthetic images that parity is measured on if no images are passed."""

Logits = Callable[[Any], FloatArray]
"""Images, `alphanet_export.onnx_model.ImageArray`, to ``(N, classes)`` logits, float32."""


@dataclass(frozen=True)
class LevelParity:
    """Parity at one optimisation level of ONNX Runtime, or in another runtime.

    Args:
        level: ``basic`` or ``all``; the runtime's name for other formats.
        max_relative_error: The largest, over images, of ``max |a - b| / max |b|`` over one image's logits, a from
            the file and b from the reference; infinite if a logit is not finite.
        max_absolute_error: The largest ``|a - b|``.
        top1_agreement: Share of the images, 0 to 1, for which both predict the same class. If the reference's
            logits of the two classes differ by less than twice the tolerance (relative to the image's largest logit)
            they are tied, and either is right.
        ties: Number of images that agree only as ties.
        signal_to_noise_db: See `sqnr_db`, over all images; minus infinity if a logit is not finite.
    """

    level: str
    max_relative_error: float
    max_absolute_error: float
    top1_agreement: float
    ties: int
    signal_to_noise_db: float


@dataclass(frozen=True)
class Parity:
    """Difference between an exported file and its reference, on some images.

    Args:
        max_relative_error: The worst over the levels, see `LevelParity`.
        top1_agreement: The worst over the levels, 0 to 1.
        images: Number of images compared.
        synthetic: Whether the images are synthetic, see `synthetic_images`.
        tolerance: Largest relative error allowed. None for an int8 file, which must reach `INT8_LEAST_DB` instead.
        signal_to_noise_db: The worst over the levels.
        reference: Name of what it was compared with.
        levels: The figures for each optimisation level.
    """

    max_relative_error: float
    top1_agreement: float
    images: int
    synthetic: bool
    tolerance: float | None
    signal_to_noise_db: float
    reference: str
    levels: tuple[LevelParity, ...]

    @property
    def holds(self) -> bool:
        """Whether error and classes are within the tolerance, or, for int8, the noise is low enough."""
        if self.tolerance is None:
            return self.signal_to_noise_db >= INT8_LEAST_DB
        return self.max_relative_error <= self.tolerance and self.top1_agreement == 1.0

    def check(self) -> Parity:
        """Returns itself.

        Raises:
            ParityError: It does not hold.
        """
        if not self.holds:
            worst = max(self.levels, key=lambda level: level.max_relative_error)
            if self.tolerance is not None:
                figure = f"relative error {worst.max_relative_error:.2e} (tolerance {self.tolerance:.0e})"
            else:
                worst = min(self.levels, key=lambda level: level.signal_to_noise_db)
                figure = f"signal to noise {worst.signal_to_noise_db:.1f} dB (int8 must reach {INT8_LEAST_DB:g})"
            at = f"at optimisation level {worst.level}" if worst.level in PARITY_LEVELS else f"in {worst.level}"
            remedy = ", and pass the weights it was exported from as reference" if self.reference == "PyTorch" else ""
            raise ParityError(
                f"the file does not compute what {self.reference} computes: {figure} {at}, top-1 agreement "
                f"{100 * self.top1_agreement:.1f} % of {self.images} images; do not use it: export it again{remedy}"
            )
        return self


def measure_parity(
    model: str | os.PathLike[str] | Runtime,
    net: nn.Module,
    images: Tensor | Iterable[Tensor],
    *,
    synthetic: bool = False,
    tolerance: float | None = TOLERANCE,
    embedding: Embedding | None = None,
) -> Parity:
    """Compares an exported model with the PyTorch network that it was exported from.

    Args:
        model: A file of any format that has a runtime here, or a runtime that `open_runtime` returned. An ONNX file is
            run at each of `PARITY_LEVELS`.
        net: The network in eval mode. It gets the same pixels, and resizes them itself if necessary.
        images: ``(N, 3, S, S)`` normalised pixels at the model's input size, or an iterable of such batches. If the
            model includes its preprocessing: ``(N, H, W, 3)`` uint8.
        synthetic: Whether the images are synthetic (for the record only).
        tolerance: Largest relative error for `Parity.check`; None for an int8 file. The default is for float32.
        embedding: The preprocessing that the model includes, which is applied to the images before ``net``; None if it
            takes normalised pixels. If its output is probabilities, their logarithms are compared with the network's.

    Returns:
        The figures. `Parity.check` raises if parity is broken.

    Raises:
        AlphaNetError: The model cannot be loaded or run.
        ValueError: ``net`` is in training mode, or there are no images.
    """
    reference = torch_logits(net, embedding)
    with _opened(model) as runs:
        return compare_logits(runs, "PyTorch", reference, images, synthetic, tolerance)


def allow_rounding(parity: Parity, net: nn.Module, images: Tensor) -> Parity:
    """Raises the tolerance of a parity that does not hold to the rounding error of PyTorch itself.

    Some networks amplify rounding errors, such as untrained ones, and then PyTorch in float32 differs from float64 by
    more than the tolerance. Only a file at the default tolerance gets a larger one: `ROUNDING_FACTOR` times the
    largest relative error of PyTorch on the first images, at most `LARGEST_TOLERANCE`.

    Args:
        parity: The comparison of a file with ``net``.
        net: The network in eval mode.
        images: Normalised pixels ``(N, 3, S, S)`` from the comparison.
    """
    if parity.holds or parity.tolerance != TOLERANCE or not math.isfinite(parity.max_relative_error):
        return parity
    images = images[:SYNTHETIC_IMAGES].detach().cpu().float()
    with torch.inference_mode():
        exact: FloatArray = copy.deepcopy(net).double()(images.double()).numpy()
    own = torch_logits(net)(np.ascontiguousarray(images.numpy()))
    error = float((np.abs(own - exact).max(axis=1) / np.abs(exact).max(axis=1)).max())
    return replace(parity, tolerance=min(max(TOLERANCE, ROUNDING_FACTOR * error), LARGEST_TOLERANCE))


def measure_consistency(
    model_path: str | os.PathLike[str],
    images: Tensor | Iterable[Tensor],
    *,
    synthetic: bool = False,
    tolerance: float | None = TOLERANCE,
) -> Parity:
    """Compares ONNX Runtime's optimised graphs of a file with the unoptimised graph.

    This requires no reference. It shows that the optimiser preserves what the file computes, not that the file is
    correct. Arguments and exceptions as in `measure_parity`.
    """
    session = open_session(model_path, "disabled")
    reference = partial(run_logits, session)
    return compare_logits(_levels(model_path), "the unoptimised graph", reference, images, synthetic, tolerance)


def tolerance_of(name: str, embedding: Embedding | None) -> float:
    """The tolerance of a float32 file of the format ``name``, a key of `alphanet_export.formats.FORMATS`."""
    return TOLERANCE if embedding is None else EMBEDDED_TOLERANCES.get(name, TOLERANCE)


def synthetic_images(n: int, size: int, seed: int = 0) -> Tensor:
    """Smooth coloured noise with the statistics of normalised photographs; deterministic.

    Noise at every scale from 2 pixels to ``size``, each scale with half the amplitude of the next coarser one,
    normalised to mean 0 and standard deviation 1.

    Returns:
        ``(n, 3, size, size)`` float32.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(n, 3, size, size)
    side, strength = 2, 1.0
    while side < 2 * size:
        noise = torch.randn(n, 3, min(side, size), min(side, size), generator=generator)
        images += strength * F.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)
        side, strength = 2 * side, strength / 2
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) / images.std(dim=(1, 2, 3), keepdim=True)


def synthetic_photographs(preprocessing: Preprocessing, seed: int = 0) -> Iterator[Tensor]:
    """`SYNTHETIC_IMAGES` uint8 RGB images ``(1, H, W, 3)`` of different sizes and shapes; deterministic.

    Among them are a single pixel, images smaller than the crop, and one that needs no resize.
    """
    short = preprocessing.resize_size
    sizes = (
        (1, 1),
        (3, 40),
        (250, 61),
        (225, 300),
        (300, 225),
        (short, short + 7),
        (short + 29, short - 1),
        (256, 300),
    )
    side = max(max(size) for size in sizes)
    noise = synthetic_images(1, side, seed)[0].permute(1, 2, 0)
    pixels = (noise * 64 + 128).clamp(0, 255).to(torch.uint8)
    for height, width in sizes:
        yield pixels[None, :height, :width].contiguous()


def torch_logits(net: nn.Module, embedding: Embedding | None = None) -> Logits:
    """The network as a function from images to logits.

    Args:
        net: The network in eval mode.
        embedding: Preprocessing of uint8 images ``(N, H, W, 3)``; None: the images are normalised pixels, float32.

    Raises:
        ValueError: The network is in training mode.
    """
    if net.training:
        raise ValueError("parity is measured against a network in eval mode; call net.eval() first")

    def run(images: ImageArray) -> FloatArray:
        pixels = torch.from_numpy(images)
        if embedding is not None:
            pixels = torch.stack([embedding.preprocessing(image.permute(2, 0, 1)) for image in pixels])
        with torch.inference_mode():
            logits: Tensor = net(pixels).float()
            if embedding is not None and embedding.probabilities:
                logits = F.log_softmax(logits, 1).clamp(min=math.log(LEAST_PROBABILITY))
        return logits.numpy()

    return run


def compare_logits(
    runs: Mapping[str, Logits],
    name: str,
    reference: Logits,
    images: Tensor | Iterable[Tensor],
    synthetic: bool,
    tolerance: float | None,
) -> Parity:
    """Runs every function in ``runs`` and the reference on the same batches, and compares their logits.

    Args:
        runs: Functions to compare, by level.
        name: Name of the reference.
        reference: The function to compare with.
        images: Normalised pixels, see `measure_parity`.
        synthetic: See `measure_parity`.
        tolerance: See `measure_parity`.

    Raises:
        ValueError: There are no images.
    """
    expected: list[FloatArray] = []
    actual: dict[str, list[FloatArray]] = {level: [] for level in runs}
    for pixels in _batches(images):
        expected.append(reference(pixels))
        for level, run in runs.items():
            actual[level].append(run(pixels))
    if not expected:
        raise ValueError("there are no images to measure parity on; pass at least one")
    target = np.concatenate(expected)
    levels = tuple(
        level_parity(level, np.concatenate(given), target, tolerance or 0.0) for level, given in actual.items()
    )
    return Parity(
        max_relative_error=max(level.max_relative_error for level in levels),
        top1_agreement=min(level.top1_agreement for level in levels),
        images=len(target),
        synthetic=synthetic,
        tolerance=tolerance,
        signal_to_noise_db=min(level.signal_to_noise_db for level in levels),
        reference=name,
        levels=levels,
    )


@contextmanager
def _opened(model: str | os.PathLike[str] | Runtime) -> Iterator[dict[str, Logits]]:
    """A model's logits by level: the optimisation levels of an ONNX file, or the name of its runtime."""
    if isinstance(model, Runtime):
        yield {model.name: model.infer}
    elif format_of(model).name == "onnx":
        yield _levels(model)
    else:
        with open_runtime(model) as runtime:
            yield {runtime.name: runtime.infer}


def _levels(model_path: str | os.PathLike[str]) -> dict[str, Logits]:
    """A file in ONNX Runtime at each of `PARITY_LEVELS`."""

    def run(session: InferenceSession, pixels: ImageArray) -> FloatArray:
        try:
            return run_logits(session, pixels)
        except Exception as error:  # ONNX Runtime's errors derive from Exception directly.
            raise AlphaNetError(f"ONNX Runtime cannot run {model_path}: {error}") from error

    return {level: partial(run, open_session(model_path, level)) for level in PARITY_LEVELS}


def _batches(images: Tensor | Iterable[Tensor]) -> Iterator[ImageArray]:
    """Float32 or uint8 arrays of at most 16 images, from one tensor or many."""
    for tensor in [images] if isinstance(images, Tensor) else images:
        for part in tensor.split(16):
            if len(part):
                part = part.detach().cpu()
                yield np.ascontiguousarray((part if part.dtype == torch.uint8 else part.float()).numpy())


def level_parity(level: str, actual: FloatArray, expected: FloatArray, tolerance: float) -> LevelParity:
    """The figures of one level, from logits ``(N, classes)``, float32.

    Raises:
        ParityError: Their shapes differ.
    """
    if actual.shape != expected.shape:
        raise ParityError(
            f"the logits of the file have the shape {actual.shape}, and those of its reference {expected.shape}; "
            "pass the reference that it was exported from"
        )
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return LevelParity(level, np.inf, np.inf, float(np.mean(actual.argmax(1) == expected.argmax(1))), 0, -np.inf)
    difference = np.abs(actual.astype(np.float64) - expected).max(axis=1)
    scale = np.abs(expected).max(axis=1).astype(np.float64)
    relative = difference / np.maximum(scale, np.finfo(np.float32).tiny)
    rows = np.arange(len(actual))
    same = actual.argmax(axis=1) == expected.argmax(axis=1)
    gap = expected.max(axis=1) - expected[rows, actual.argmax(axis=1)]
    tied = ~same & (gap <= 2 * tolerance * scale)
    return LevelParity(
        level=level,
        max_relative_error=float(relative.max()),
        max_absolute_error=float(difference.max()),
        top1_agreement=float(np.mean(same | tied)),
        ties=int(tied.sum()),
        signal_to_noise_db=sqnr_db(expected, actual),
    )


def sqnr_db(expected: FloatArray, actual: FloatArray) -> float:
    """Signal-to-quantisation-noise ratio of logits in decibels, at most `LOUDEST_DB`."""
    noise = float(np.square(expected.astype(np.float64) - actual).sum())
    signal = float(np.square(expected.astype(np.float64)).sum())
    if noise == 0:
        return LOUDEST_DB
    return min(10 * math.log10(signal / noise), LOUDEST_DB) if signal > 0 else -math.inf
