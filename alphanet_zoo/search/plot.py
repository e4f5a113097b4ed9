"""Plots of accuracy against cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphanet_zoo.errors import MissingDependencyError
from alphanet_zoo.files import replacing
from alphanet_zoo.search.limits import LATENCY, UNITS

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


def plot_entries(path: str | Path, evaluated: Sequence[Mapping[str, Any]], axis: str) -> None:
    """Plots the entries of a search to a PNG file: the score against a cost, and the front.

    Args:
        path: The PNG file.
        evaluated: See `alphanet_zoo.search.run.entries_of`; at least one.
        axis: The cost.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    scale, unit = (1.0, "ms per image") if axis == LATENCY else (1e-6, f"million {UNITS[axis]}")
    percent = 100.0 if "accuracy" in evaluated[0] else 1.0
    with accuracy_picture(path, None if percent == 100.0 else "score") as axes:
        for label, style, entries in (
            ("evaluated", "o", evaluated),
            ("front", "o-", [e for e in evaluated if e["front"]]),
        ):
            points = [scale * e[axis] for e in entries], [percent * e["score"] for e in entries]
            colour = "0.7" if label == "evaluated" else "tab:blue"
            axes.plot(*points, style, color=colour, markersize=4, label=f"{label} ({len(entries)} subnets)")
        images = f" ({evaluated[0]['images']} images)" if "images" in evaluated[0] else ""
        axes.set(xlabel=unit, title=f"Pareto front{images}")


@contextmanager
def accuracy_picture(path: str | Path, measure: str | None = None) -> Iterator[Axes]:
    """Yields axes for top-1 accuracy or another measure (y axis), and writes a PNG file if the block succeeds.

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
    axes.set_ylabel(measure or "top-1 accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _columns(points: Points) -> tuple[list[float], list[float]]:
    """MACs in millions and accuracies in percent."""
    return [macs / 1e6 for macs, _ in points], [100 * accuracy for _, accuracy in points]
