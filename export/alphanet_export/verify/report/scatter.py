"""Accuracy against latency, with the Pareto front: as inline SVG, and as a PNG file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap

from markupsafe import Markup, escape

from alphanet_zoo.errors import MissingDependencyError
from alphanet_zoo.files import replacing
from alphanet_zoo.search.pareto import pareto_front
from alphanet_zoo.svg import WIDTH, line, printable, svg, text

_CHARACTER = 6.4
"""Approximate width of a character of a label, in SVG units."""


@dataclass(frozen=True)
class Point:
    """A model in a scatter plot.

    Args:
        name: Its name.
        ours: Whether it is an AlphaNet.
        latency_ms: Median latency.
        interval_ms: Confidence interval of the latency.
        top1: Top-1 in percent.
    """

    name: str
    ours: bool
    latency_ms: float
    interval_ms: tuple[float, float]
    top1: float

    @property
    def label(self) -> str:
        """Its name in a plot."""
        return self.name.removeprefix("alphanet_")


def front_of(points: Sequence[Point]) -> list[Point]:
    """The Pareto front, by ascending latency: no other model is both faster and more accurate."""
    return [points[index] for index in pareto_front([(point.latency_ms, point.top1) for point in points])]


def scatter_plot(title: str, points: Sequence[Point], height: int = 420) -> Markup:
    """Top-1 against latency with its interval, and the Pareto front; at least one point."""
    longest = 1.12 * max(point.interval_ms[1] for point in points)
    low, high = min(point.top1 for point in points) - 0.7, max(point.top1 for point in points) + 0.5
    left, right, top, bottom = 46, WIDTH - 20, 30, height - 48

    def x(milliseconds: float) -> float:
        return left + (right - left) * milliseconds / longest

    def y(percent: float) -> float:
        return bottom - (bottom - top) * (percent - low) / (high - low)

    shapes = [line(left, bottom, right, bottom, "axis"), line(left, top, left, bottom, "axis")]
    for percent in range(int(low) + 1, int(high) + 1):
        shapes.append(line(left, y(percent), right, y(percent), "axis"))
        shapes.append(text(left - 8, y(percent) + 4, str(percent), anchor="end"))
    step = _tick_step(longest)
    for tick in range(int(longest / step) + 1):
        shapes.append(text(x(tick * step), bottom + 19, f"{tick * step:g}", anchor="middle"))
    shapes.append(text((left + right) / 2, height - 7, "latency of one image, ms", anchor="middle"))
    shapes.append(text(left - 8, 15, "top-1, %"))
    shapes += _key()
    path = " ".join(f"{x(point.latency_ms):.1f},{y(point.top1):.1f}" for point in front_of(points))
    shapes.append(f'<polyline class="front-line" points="{path}"/>')
    for point in points:
        kind, across, up = "ours" if point.ours else "theirs", x(point.latency_ms), y(point.top1)
        tip = escape(printable(f"{point.name}: {point.top1} %, {point.latency_ms:.2f} ms"))
        shapes.append(line(x(point.interval_ms[0]), up, x(point.interval_ms[1]), up, f"{kind}-line"))
        shapes.append(
            f'<circle class="{kind}-dot" cx="{across:.1f}" cy="{up:.1f}" r="4.5"><title>{tip}</title></circle>'
        )
    for point, (across, up) in zip(points, _named_places(points, x, y), strict=True):
        shapes.append(text(across, up, point.label, kind="name"))
    return svg(title, height, shapes)


def _key() -> list[str]:
    """The key of colours and lines."""
    return [
        f'<circle class="ours-dot" cx="{WIDTH - 330}" cy="11" r="4.5"/>',
        text(WIDTH - 320, 15, "AlphaNet"),
        f'<circle class="theirs-dot" cx="{WIDTH - 240}" cy="11" r="4.5"/>',
        text(WIDTH - 230, 15, "timm"),
        f'<polyline class="front-line" points="{WIDTH - 180},11 {WIDTH - 150},11"/>',
        text(WIDTH - 142, 15, "Pareto front"),
    ]


def _named_places(
    points: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float]
) -> list[tuple[float, float]]:
    """Where the labels of points begin, beside the points, their intervals and the front; see `label_places`."""
    centres = [(x(point.latency_ms), y(point.top1)) for point in points]
    obstacles = [(x(p.interval_ms[0]) - 3, y(p.top1) - 3, x(p.interval_ms[1]) + 3, y(p.top1) + 3) for p in points]
    corners = [(x(point.latency_ms), y(point.top1)) for point in front_of(points)]
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = 1 + int(max(abs(x1 - x0), abs(y1 - y0)) / 4)
        along = [(x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps) for step in range(steps + 1)]
        obstacles += [(across - 2, up - 2, across + 2, up + 2) for across, up in along]
    return label_places([point.label for point in points], centres, obstacles)


def label_places(
    labels: Sequence[str], centres: Sequence[tuple[float, float]], obstacles: Sequence[tuple[float, ...]] = ()
) -> list[tuple[float, float]]:
    """Where the labels of points begin, so that they overlap neither points nor one another if possible.

    Args:
        labels: The labels.
        centres: The points, in SVG units.
        obstacles: Other boxes to avoid: left, top, right, bottom.

    Returns:
        The left end of the base line of each label.
    """
    taken = [*obstacles, *((cx - 7, cy - 7, cx + 7, cy + 7) for cx, cy in centres)]
    places = []
    for label, (cx, cy) in zip(labels, centres, strict=True):
        wide = _CHARACTER * len(label)
        candidates = [
            (cx + dx, cy + dy)
            for dy in (4, 19, -10, 32, -23, 45, -36)
            for dx in ((10, 24, -10 - wide, -24 - wide) if dy == 4 else (-wide / 2, 6, -6 - wide))
            if cx + dx > 50 and cx + dx + wide < WIDTH - 4
        ]
        boxes = [(px, py - 10, px + wide, py + 3) for px, py in candidates]
        overlaps = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = overlaps.index(min(overlaps))
        taken.append(boxes[best])
        places.append(candidates[best])
    return places


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The area that two boxes (left, top, right, bottom) share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, tall)


def _tick_step(span: float) -> float:
    """A round distance that gives at most ten ticks on an axis from 0 to ``span``."""
    power = 10.0 ** (len(str(int(span))) - 2) if span >= 1 else 0.1
    return next(factor * power for factor in (1, 2, 5, 10, 20, 50) if span / (factor * power) <= 10)


def write_scatter(path: str | os.PathLike[str], plots: Sequence[tuple[str, Sequence[Point]]], footer: str) -> None:
    """Writes scatter plots, one beside the other, to a PNG file. The file appears complete or not at all.

    Args:
        path: The file, replaced if it exists.
        plots: Title and points of each plot; at least one plot, each with at least one point.
        footer: Words under the plots.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "bench") from error
    figure = Figure(figsize=(8.4 * len(plots), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.supxlabel("\n".join(wrap(footer, 130 * len(plots))), fontsize=7.5, color="0.35")
    for axes, (title, points) in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots, strict=True):
        front = front_of(points)
        axes.plot(
            [p.latency_ms for p in front], [p.top1 for p in front], "--", color="0.5", zorder=1, label="Pareto front"
        )
        for ours, colour, label in ((True, "tab:blue", "AlphaNet"), (False, "tab:orange", "timm")):
            chosen = [point for point in points if point.ours is ours]
            errors = [[abs(p.latency_ms - p.interval_ms[side]) for p in chosen] for side in (0, 1)]
            axes.errorbar([p.latency_ms for p in chosen], [p.top1 for p in chosen], xerr=errors, fmt="o", color=colour,
                          label=label)  # fmt: skip
        axes.set(title=title, xlabel="latency of one image, ms", ylabel="published top-1, %")
        axes.set_xlim(0, 1.15 * max(point.interval_ms[1] for point in points))
        axes.margins(y=0.08)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        _annotate(axes, points)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _annotate(axes: object, points: Sequence[Point]) -> None:
    """Writes the names beside the points, without overlaps if possible; ``axes`` are matplotlib's."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    tall = 0.6 * WIDTH  # `label_places` counts from the top, in units in which the plot is WIDTH wide.
    places = _named_places(points, lambda ms: WIDTH * ms / right, lambda top1: tall * (high - top1) / (high - low))
    for point, (x, y) in zip(points, places, strict=True):
        axes.text(right * x / WIDTH, high - (high - low) * y / tall, point.label, fontsize=8)
