"""Which output of a model each class of some labelled images is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from alphanet_zoo.errors import UsageError


def match_classes(
    found: Sequence[str], labels: Sequence[str] | None, num_classes: int, *, by_position: bool = False, where: str
) -> Tensor:
    """The index of the model's output for each class of the images.

    Classes are matched by name. The images may have only some of the model's classes, in any order, but each of their
    classes must be one of the model's labels. By position only if the model has no labels, or if the caller asks for
    it; there must then be as many classes as outputs.

    Args:
        found: Names of the images' classes.
        labels: Names of the model's outputs; None or empty if the model has none.
        num_classes: Number of the model's outputs.
        by_position: Class i is output i, whatever the names.
        where: Name of the images in error messages.

    Returns:
        ``(len(found),)`` int64 output of each class.

    Raises:
        UsageError: The classes do not match; the message lists both.
    """
    if by_position or not labels:
        if len(found) != num_classes:
            raise UsageError(
                f"{where} has {len(found)} classes ({shortened(found)}) and the model has {num_classes}; to match by "
                "position, pass images with exactly one folder per class of the model"
            )
        return torch.arange(num_classes)
    places: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        places.setdefault(label, []).append(index)
    unknown = [name for name in found if name not in places]
    if unknown:
        raise UsageError(
            f"{where} has classes that are not labels of the model: {shortened(unknown)}. Its classes: "
            f"{shortened(found)}. The model's labels: {shortened(labels)}. Rename the folders, or pass "
            "--labels-by-position (labels_by_position=True) if class i is output i"
        )
    ambiguous = [name for name in found if len(places[name]) > 1]
    if ambiguous:
        raise UsageError(
            f"{where}: the model has several outputs with the label {shortened(ambiguous)}; pass --labels-by-position "
            "(labels_by_position=True) if class i is output i"
        )
    return torch.tensor([places[name][0] for name in found], dtype=torch.int64)


def shortened(names: Iterable[str], count: int = 5) -> str:
    """The first few of some names, and how many there are if those are not all."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:count]) + (f", ... ({len(listed)} in all)" if len(listed) > count else "")
