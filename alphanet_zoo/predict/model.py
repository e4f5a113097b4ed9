"""What a classifier runs: from decoded images to logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphanet_zoo.data.preprocess import Preprocessing


@dataclass(frozen=True, eq=False)
class ImageModel:
    """Maps decoded images to logits.

    Args:
        prepare: Maps a decoded image, ``(3, H, W)`` uint8, to what ``logits`` takes. Runs once per image, when it is
            read, so that a batch of large images takes little memory.
        logits: Maps prepared images to logits ``(N, classes)``, float32 on the CPU.
        labels: Names of the classes; None if they are unknown.
        multi_label: Whether an image can have several labels, each with a probability of its own.
        random_weights: Whether the weights are random, so that the results are meaningless.
        name: Name or path of the model; None if it has none.
        classes: Number of classes; None if it is unknown before the model runs.
        input_size: Side of the prepared images in pixels; None if any size is accepted.
        runtime: Title of what runs the model.
    """

    prepare: Callable[[Tensor], Tensor]
    logits: Callable[[Sequence[Tensor]], Tensor]
    labels: tuple[str, ...] | None = None
    multi_label: bool = False
    random_weights: bool = False
    name: str | None = None
    classes: int | None = None
    input_size: int | None = None
    runtime: str = "PyTorch"


def preprocessed(
    preprocessing: Preprocessing,
    predict: Callable[[Tensor], Tensor],
    *,
    labels: Sequence[str] | None = None,
    **described: Any,
) -> ImageModel:
    """A model whose input is prepared outside of it.

    Args:
        preprocessing: Preprocessing of an image.
        predict: Maps normalised images ``(N, 3, S, S)`` float32 to logits.
        labels: See `ImageModel`.
        described: The other arguments of `ImageModel`, except ``input_size``.
    """

    def logits(prepared: Sequence[Tensor]) -> Tensor:
        return predict(preprocessing.normalise(torch.stack(list(prepared)))).float().cpu()

    names = tuple(labels) if labels else None
    return ImageModel(preprocessing.pixels, logits, names, input_size=preprocessing.input_size, **described)
