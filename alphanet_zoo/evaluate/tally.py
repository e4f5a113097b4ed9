"""What a validation counts, over all processes: right answers, or with several labels an image a ranking."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from alphanet_zoo.train.distributed import Ranks


class Tally(Protocol):
    """Gathers the answers of one subnet."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Takes the next batch of this process."""

    def figures(self, ranks: Ranks) -> dict[str, float]:
        """Figures over the images of all processes, the same in each; `images` is their number."""


class ClassTally:
    """Counts right answers where an image has one class: `accuracy`."""

    def __init__(self) -> None:
        """Has seen nothing."""
        self._right = self._images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """``(N, classes)`` and ``(N,)``; see `Tally`."""
        self._right += int((logits.argmax(1).cpu() == labels).sum())
        self._images += len(labels)

    def figures(self, ranks: Ranks) -> dict[str, float]:
        """See `Tally`."""
        counts = torch.tensor([self._right, self._images], dtype=torch.float64, device=ranks.device)
        right, images = ranks.sum_(counts).tolist()
        return {"accuracy": right / images, "images": images}


class LabelTally:
    """Keeps the scores where an image has several labels: `mean_average_precision` and `label_accuracy`.

    The latter is the share of all labels told right, yes or no; where labels are rare, "no" to all scores high.

    Args:
        images: How many all processes have, each every world-size-th one in order.
        labels: How many labels there are.
    """

    def __init__(self, images: int, labels: int) -> None:
        """Has seen nothing."""
        self._shape = (images, labels)
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """``(N, labels)`` each; see `Tally`."""
        self._logits.append(logits.float())
        self._labels.append(labels)

    def figures(self, ranks: Ranks) -> dict[str, float]:
        """See `Tally`; `labels_measured` counts the labels that some image has, over which the mean is."""
        scores = self._gathered(self._logits, ranks)
        labels = self._gathered(self._labels, ranks) > 0.5
        precisions = average_precision(scores, labels)
        measured = precisions[~precisions.isnan()]
        return {
            "mean_average_precision": float(measured.mean()),
            "label_accuracy": float(((scores > 0) == labels).float().mean()),
            "labels_measured": float(len(measured)),
            "images": float(len(scores)),
        }

    def _gathered(self, batches: list[Tensor], ranks: Ranks) -> Tensor:
        """The rows of all processes in the images' order, ``(images, labels)`` on the CPU."""
        table = torch.zeros(self._shape, device=ranks.device)
        if batches:
            table[ranks.rank :: ranks.world_size] = torch.cat(batches).to(table)
        return ranks.sum_(table).cpu()


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each label: the mean, over the images that have it, of the precision where they rank.

    Args:
        scores: ``(N, labels)``, higher for a surer yes. Images of one score have one rank, the last of theirs.
        labels: ``(N, labels)`` bool.

    Returns:
        ``(labels,)`` float64 from 0 to 1; NaN for a label that no image has.
    """
    order = scores.argsort(0, descending=True)
    ranked, hits = scores.gather(0, order), labels.gather(0, order).double()
    places = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None].expand_as(hits)
    # Within a run of equal scores every image takes the figures of the run's last.
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    end = torch.where(last, places, torch.inf).flip(0).cummin(0).values.flip(0).long() - 1
    precision = hits.cumsum(0).gather(0, end) / (end + 1)
    return (precision * hits).sum(0) / hits.sum(0)
