"""Average precision of images with several labels each, over all processes."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Processes(Protocol):
    """The processes that share the images."""

    rank: int
    world_size: int
    device: torch.device

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor by its sum over the processes, and returns it."""


class LabelTally:
    """Collects the scores of images with several labels each.

    Args:
        images: Number of images over all processes; each process has every ``world_size``-th one, in order.
        labels: Number of labels.
    """

    def __init__(self, images: int, labels: int) -> None:
        """Starts empty."""
        self._shape = (images, labels)
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Adds the next batch of this process, ``(N, labels)`` each."""
        self._logits.append(logits.float())
        self._labels.append(labels)

    def figures(self, ranks: Processes) -> dict[str, float]:
        """Figures over the images of all processes, the same in each.

        ``mean_average_precision``: mean over the labels that at least one image has (``labels_measured``).
        ``label_accuracy``: share of all labels predicted correctly, present or absent; if labels are rare, predicting
        absence everywhere scores high. ``images``: their number.
        """
        table = self._gathered(ranks)
        table = table[table[:, -1] > 0.5]
        scores, labels = table[:, : self._shape[1]], table[:, self._shape[1] : -1] > 0.5
        precisions = average_precision(scores, labels)
        measured = precisions[~precisions.isnan()]
        return {
            "mean_average_precision": float(measured.mean()),
            "label_accuracy": float(((scores > 0) == labels).float().mean()),
            "labels_measured": float(len(measured)),
            "images": float(len(scores)),
        }

    def _gathered(self, ranks: Processes) -> Tensor:
        """Scores, labels and 1 of each image of all processes, ``(images, 2 * labels + 1)`` on the CPU.

        The rows of images that were left out are 0.
        """
        table = torch.zeros((self._shape[0], 2 * self._shape[1] + 1), device=ranks.device)
        if self._logits:
            logits, labels = torch.cat(self._logits).to(table), torch.cat(self._labels).to(table)
            rows = torch.cat((logits, labels, torch.ones_like(labels[:, :1])), dim=1)
            table[ranks.rank :: ranks.world_size][: len(rows)] = rows
        return ranks.sum_(table).cpu()


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each label: the mean, over the images that have it, of the precision at their rank.

    Args:
        scores: ``(N, labels)``, higher if a label is more likely. Images with equal scores share their last rank.
        labels: ``(N, labels)`` bool.

    Returns:
        ``(labels,)`` float64 from 0 to 1; NaN for a label that no image has.
    """
    order = scores.argsort(0, descending=True)
    ranked, hits = scores.gather(0, order), labels.gather(0, order).double()
    places = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None].expand_as(hits)
    # Images with equal scores all get the values of the last of them.
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    end = torch.where(last, places, torch.inf).flip(0).cummin(0).values.flip(0).long() - 1
    precision = hits.cumsum(0).gather(0, end) / (end + 1)
    return (precision * hits).sum(0) / hits.sum(0)
