"""What goes from the readers of images to a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from alphanet_zoo.data.resident import Windows


@dataclass(frozen=True)
class Batch:
    """What one process learns from in one step.

    Attributes:
        epoch: The epoch, from 0.
        indices: ``(N,)`` which images of the source.
        images: ``(N, 3, S, S)`` float32, varied and normalised, channels-last in memory.
        labels: ``(N,)`` class indices, or ``(N, labels)`` of 0 and 1.
    """

    epoch: int
    indices: tuple[int, ...]
    images: Tensor
    labels: Tensor

    def split(self, parts: int) -> list[Batch]:
        """Equal parts in order, to accumulate gradients over: those that as many processes would get.

        Raises:
            ValueError: They would not be equal.
        """
        if parts < 1 or len(self.indices) % parts:
            raise ValueError(f"a batch of {len(self.indices)} images does not make {parts} equal parts")
        size = len(self.indices) // parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
        return [Batch(self.epoch, self.indices[cut], self.images[cut], self.labels[cut]) for cut in cuts]


class RawBatch(NamedTuple):
    """What a worker hands over: a quarter of a `Batch`'s bytes.

    Attributes:
        epoch: The epoch, from 0.
        indices: Which images were asked for.
        images: ``(N, 3, S, S)`` uint8, channels-last in memory; or, where the device has them, what to take of them.
        labels: ``(N,)``; a substitute's where an image is broken.
        thetas: ``(N, 2, 3)`` affine moves still to be made, or None.
        broken: Index and complaint of each broken image that was met.
    """

    epoch: int
    indices: tuple[int, ...]
    images: Tensor | Windows
    labels: Tensor
    thetas: Tensor | None
    broken: tuple[tuple[int, str], ...]
