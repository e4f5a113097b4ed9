"""Plots of accuracy against cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_zoo.errors import MissingDependencyError
from alphanet_zoo.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]


def plot_front(
    path: str | Path, evaluated: Points, front: Points, *, test: Points = (), images: int | None = None
) -> None:
    """Plots all scored subnets and their front to a PNG file.

    Args:
        path: The PNG file.
        evaluated: ``(MACs, accuracy from 0 to 1)`` of every scored subnet, on validation images.
        front: The points of the front, by ascending cost.
        test: Points measured on test images; drawn in another colour.
        images: Number of validation images, shown in the title.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    with accuracy_picture(path) as axes:
        axes.scatter(*_columns(evaluated), s=14, color="0.7", label=f"{len(evaluated)} subnets, validation")
        axes.plot(*_columns(front), "o-", color="tab:blue", markersize=4, label="front, validation")
        if test:
            axes.scatter(*_columns(test), marker="D", s=36, color="tab:red", zorder=3, label="test")
        counted = f" ({images} images)" if images else ""
        axes.set(xlabel="million MACs per image", title=f"Accuracy against cost{counted}")


@contextmanager
def accuracy_picture(path: str | Path) -> Iterator[Axes]:
    """Yields axes for top-1 accuracy (y axis), and writes them to a PNG file if the block succeeds.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "demo") from error
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    yield axes
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _columns(points: Points) -> tuple[list[float], list[float]]:
    """MACs in millions and accuracies in percent."""
    return [macs / 1e6 for macs, _ in points], [100 * accuracy for _, accuracy in points]
