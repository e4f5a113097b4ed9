"""Whether a model computes, in whatever runtime, what its network computes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from alphanet_export.runtimes.interface import Runtime
from alphanet_export.verify.measure.parity import TOLERANCE, Parity, compare_logits, torch_logits


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
    return compare_logits({runtime.name: runtime.infer}, "PyTorch", torch_logits(net), images, synthetic, tolerance)
