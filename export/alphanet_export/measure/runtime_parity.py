"""Whether a model computes, in whatever runtime, what its network computes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from alphanet_export.measure.parity import TOLERANCE, LevelParity, Parity, image_batches, level_parity
from alphanet_export.runtimes.interface import Runtime


def measure_runtime_parity(
    runtime: Runtime,
    net: nn.Module,
    images: Tensor | Iterable[Tensor],
    *,
    synthetic: bool = False,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compares a loaded model with the PyTorch net it came from.

    Args:
        runtime: What `alphanet_export.runtimes.opening.open_runtime` gave.
        net: The network in eval mode; it gets the same pixels, and resizes them itself where it must.
        images: ``(N, 3, S, S)`` normalised pixels at the model's input size, or an iterable of such batches.
        synthetic: Whether the images were made up (recorded, no more).
        tolerance: Largest relative error for `Parity.check`. The default is for float32 arithmetic; integers, bf16 and
            fp16 are further off, and how far they may be is a question of accuracy.

    Returns:
        The figures, with one level called as the runtime; call `Parity.check` to have broken parity raise.

    Raises:
        AlphaNetError: The runtime fails.
        ValueError: ``net`` is in training mode, or there are no images.
    """
    if net.training:
        raise ValueError("parity is measured against a network in eval mode; call net.eval() first")
    expected, actual = [], []
    for pixels in image_batches(images):
        with torch.inference_mode():
            logits: Tensor = net(torch.from_numpy(pixels))
        expected.append(logits.float().numpy())
        actual.append(runtime.infer(pixels))
    if not expected:
        raise ValueError("there are no images to measure parity on; give at least one")
    level: LevelParity = level_parity(runtime.name, np.concatenate(actual), np.concatenate(expected), tolerance)
    return Parity(
        max_relative_error=level.max_relative_error,
        top1_agreement=level.top1_agreement,
        images=sum(map(len, expected)),
        synthetic=synthetic,
        tolerance=tolerance,
        reference="PyTorch",
        levels=(level,),
    )
