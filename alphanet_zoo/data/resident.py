"""Small images kept on the device where they are learnt from, and cut and flipped there a batch at a time.

What an image gets is drawn by the loader, from the seed, the epoch and its index, as for every engine; here it is only
carried out, to the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Windows(NamedTuple):
    """Which part of which images a batch shows.

    Attributes:
        images: ``(N,)`` int64 indices of the images.
        corners: ``(N, 2)`` int64 top and left of each crop, in the image with its border.
        flips: ``(N,)`` bool, whether the crop is flipped from left to right.
    """

    images: Tensor
    corners: Tensor
    flips: Tensor


class ResidentImages:
    """All prepared images of a source, copied to a device when they are first asked for there.

    Args:
        images: ``(N, 3, S, S)`` uint8, on the CPU.
        border: Black pixels on every side of an image that a window may show.
    """

    def __init__(self, images: Tensor, border: int) -> None:
        """Copies nothing yet."""
        self._images, self._border = images, border

    def take(self, windows: Windows, device: torch.device) -> Tensor:
        """The windows' pixels.

        Args:
            windows: Of a batch, on the CPU.
            device: Where the images stay from now on.

        Returns:
            ``(N, 3, S, S)`` uint8 on ``device``, channels-last in memory.
        """
        self._images = self._images.to(device)
        chosen, corners, flips = (part.to(device, non_blocking=True) for part in windows)
        bordered = F.pad(self._images[chosen], [self._border] * 4)
        along = torch.arange(self._images.shape[-1], device=device)
        rows = corners[:, :1] + along
        columns = corners[:, 1:] + torch.where(flips[:, None], along.flip(0), along)
        batch = torch.arange(len(chosen), device=device)
        # The three index tensors meet as (N, S, S); the channels, sliced between them, come last.
        pixels = bordered[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return pixels.permute(0, 3, 1, 2)
