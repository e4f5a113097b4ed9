"""Accuracy of an exported file on labelled images, with its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alphanet_export.metadata import ExportedModel
from alphanet_export.runtimes.runtime import open_runtime
from alphanet_zoo.data.preprocess import ImageFolder
from alphanet_zoo.errors import AccuracyError, UsageError
from alphanet_zoo.evaluate.statistics import wilson_interval


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labelled images, in percent, with 95 % Wilson intervals.

    Args:
        top1: Share of the images whose class has the largest logit.
        top1_interval: Its interval.
        top5: Share of the images whose class is among the five largest logits; None with five classes or fewer.
        top5_interval: Its interval, or None.
        images: Number of images.
        classes: Number of classes.
    """

    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    top5_interval: tuple[float, float] | None
    images: int
    classes: int

    def check(self, min_top1: float) -> Accuracy:
        """Returns itself.

        Raises:
            AccuracyError: Top-1 is below ``min_top1`` percent.
        """
        if self.top1 < min_top1:
            low, high = self.top1_interval
            raise AccuracyError(
                f"top-1 {self.top1:.2f} % (95 % interval {low:.2f} to {high:.2f}, {self.images} images) is below the "
                f"floor of {min_top1:g} %; check that the images are the model's classes, or train it further"
            )
        return self


@dataclass(frozen=True, eq=False)
class Classified:
    """Predictions for labelled images.

    Args:
        best: The up to five likeliest classes of each image, ``(N, 5)``, the likeliest first.
        classes: The true class of each image, ``(N,)``.
        num_classes: Number of classes of the model.
    """

    best: torch.Tensor
    classes: torch.Tensor
    num_classes: int

    @property
    def right(self) -> torch.Tensor:
        """Whether the likeliest class is the true one, ``(N,)``."""
        return self.best[:, 0] == self.classes

    @property
    def accuracy(self) -> Accuracy:
        """Top-1 and top-5."""
        images, within = len(self.classes), (self.best == self.classes.unsqueeze(1)).any(dim=1)
        top1, top1_interval = _percent(int(self.right.sum()), images)
        top5, top5_interval = _percent(int(within.sum()), images)
        some = self.num_classes > 5
        return Accuracy(
            top1, top1_interval, top5 if some else None, top5_interval if some else None, images, self.num_classes
        )


def measure_accuracy(
    model: ExportedModel,
    folder: ImageFolder,
    *,
    batch_size: int = 16,
    limit: int | None = None,
    threads: int | None = None,
) -> Accuracy:
    """Runs labelled images through an exported file in its runtime, preprocessed as its metadata says.

    Args:
        model: The file, see `alphanet_export.metadata.open_exported`.
        folder: The images, one folder per class, see `class_indices`.
        batch_size: Images decoded and, if the model's batch size allows it, run at a time.
        limit: Number of images to use, spread evenly over the folder; None is all.
        threads: Threads within an operator; None is the number of physical cores.

    Raises:
        UsageError: The folder's classes are not the model's.
        AlphaNetError: An image cannot be read, or the file cannot be run.
    """
    return classify(model, folder, batch_size=batch_size, limit=limit, threads=threads).accuracy


def classify(
    model: ExportedModel,
    folder: ImageFolder,
    *,
    batch_size: int = 16,
    limit: int | None = None,
    threads: int | None = None,
) -> Classified:
    """The same as `measure_accuracy`, with the predictions of each image."""
    indices = class_indices(model, folder)
    best, classes = [], []
    with open_runtime(model.path, threads=threads) as runtime:
        for pixels, labels in folder.batches(model.preprocessing, batch_size, limit):
            logits = torch.from_numpy(runtime.infer(pixels.numpy()))
            best.append(logits.topk(min(5, model.num_classes), dim=1).indices)
            classes.append(indices[labels])
    return Classified(torch.cat(best), torch.cat(classes), model.num_classes)


def class_indices(model: ExportedModel, folder: ImageFolder) -> torch.Tensor:
    """The model's class index of each of the folder's classes, ``(classes,)``.

    By name, where every folder is named as one of the model's labels; a folder may then hold some of the classes
    only. Otherwise in the order of the names (as ImageNet's folders are), where there are as many as logits.

    Raises:
        UsageError: Neither is the case.
    """
    labels = model.labels or ()
    if folder.classes and set(folder.classes) <= set(labels) and len(set(labels)) == len(labels):
        return torch.tensor([labels.index(name) for name in folder.classes])
    if len(folder.classes) != model.num_classes:
        unknown = [name for name in folder.classes if labels and name not in labels]
        detail = f", and {unknown[0]!r} is none of its labels" if unknown else ""
        raise UsageError(
            f"{folder.root} holds {len(folder.classes)} classes and the model has {model.num_classes}{detail}; "
            "give a folder with one folder for each class of the model, or --parity-only"
        )
    return torch.arange(model.num_classes)


def _percent(successes: int, trials: int) -> tuple[float, tuple[float, float]]:
    """A share and its interval, in percent."""
    low, high = wilson_interval(successes, trials)
    return 100 * successes / trials, (100 * low, 100 * high)
