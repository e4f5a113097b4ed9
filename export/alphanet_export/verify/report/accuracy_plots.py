"""Plots of accuracy as inline SVG: confusion matrix, reliability diagram, accuracy under corruption."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from alphanet_export.verify.measure.robustness import CorruptedAccuracy, Robustness
from alphanet_zoo.evaluate.diagnostics import Reliability
from alphanet_zoo.svg import WIDTH, line, printable, svg, text

LABEL = 16
"""Maximum number of characters of a class name in a plot."""
COUNTED = 16
"""Maximum number of classes for which the cells of the confusion matrix show their counts."""


def rectangle(x: float, y: float, width: float, height: float, kind: str, *, tip: str = "", opacity: float = 1) -> str:
    """A filled rectangle with a tooltip; the tooltip is escaped here."""
    inside = f"<title>{escape(printable(tip))}</title>" if tip else ""
    faint = f' fill-opacity="{opacity:.3f}"' if opacity < 1 else ""
    return (
        f'<rect class="{kind}"{faint} x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" '
        f'height="{max(height, 0):.1f}">{inside}</rect>'
    )


def matrix_plot(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    """A heat map: true class by row, predicted class by column, shaded by its share of the row."""
    names = [name if len(name) <= LABEL else f"{name[: LABEL - 8]}...{name[-5:]}" for name in map(printable, labels)]
    longest = max(map(len, names))
    left = 34 + 6.6 * longest
    side = min(44.0, (WIDTH - left - 10) / len(names))
    upright = 6.6 * longest > side - 6
    top = 30 + (6.6 * longest if upright else 14)
    left = max(left, (WIDTH - side * len(names)) / 2)
    shapes = [text(left + side * len(names) / 2, 14, "classified as", anchor="middle")]
    for row, counts in enumerate(matrix):
        y, total = top + side * row, sum(counts)
        shapes.append(text(left - 7, y + side / 2 + 4, names[row], anchor="end", kind="name"))
        shapes.append(_column_name(names[row], left + side * (row + 0.5), top - 7, upright))
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            # The square root makes rare confusions visible.
            depth, kind = (share, "bar") if row == column else (share**0.5, "lost")
            tip = f"{labels[row]} classified as {labels[column]}: {count} images ({100 * share:.1f} %)"
            x = left + side * column
            shapes.append(rectangle(x + 0.5, y + 0.5, side - 1, side - 1, "empty"))
            if count:
                shapes.append(
                    rectangle(x + 0.5, y + 0.5, side - 1, side - 1, kind, tip=tip, opacity=0.08 + 0.92 * depth)
                )
            if count and len(names) <= COUNTED:
                tone = "inverse" if depth > 0.55 else "name"
                shapes.append(text(x + side / 2, y + side / 2 + 4, str(count), anchor="middle", kind=tone))
    middle = top + side * len(names) / 2
    shapes.append(f'<g transform="rotate(-90 {left - 21 - 6.6 * longest:.1f} {middle:.1f})">'
                  f"{text(left - 21 - 6.6 * longest, middle, 'class', anchor='middle')}</g>")  # fmt: skip
    return svg("Confusion matrix", top + side * len(names) + 8, shapes)


def _column_name(name: str, x: float, y: float, upright: bool) -> str:
    """The name of a column, upright if it is wider than the column."""
    if not upright:
        return text(x, y, name, anchor="middle", kind="name")
    return f'<g transform="rotate(-90 {x + 4:.1f} {y:.1f})">{text(x + 4, y, name, kind="name")}</g>'


def reliability_plot(bins: Reliability, height: int = 330) -> Markup:
    """Accuracy, mean confidence and number of images in each bin, with the diagonal of perfect calibration."""
    top, bottom, wide = 28.0, height - 46.0, 330.0
    shapes = _panel(50, wide, top, bottom, "accuracy", [f"{tick / 5:g}" for tick in range(6)])
    shapes += _panel(50 + wide + 80, wide, top, bottom, "images", [])
    most, tall = max(bins.images), bottom - top
    for low, high, images, confidence, accuracy in zip(
        bins.edges, bins.edges[1:], bins.images, bins.confidence, bins.accuracy, strict=False
    ):
        if confidence is None or accuracy is None or confidence != confidence:
            continue
        means = f"accuracy {accuracy:.3f}, mean confidence {confidence:.3f}"
        tip = f"confidence {low:.2f} to {high:.2f}: {means}, {images} images"
        x, width = 50 + wide * low + 0.5, wide * (high - low) - 1
        shapes.append(rectangle(x, bottom - tall * accuracy, width, tall * accuracy, "bar2", tip=tip))
        shapes.append(rectangle(x, bottom - tall * confidence - 1.5, width, 3, "dot", tip=tip))
        share = tall * images / most
        shapes.append(rectangle(x + wide + 80, bottom - share, width, share, "bar2", tip=tip))
    shapes.append(line(50, bottom, 50 + wide, top, "guide"))
    shapes.append(text(50 + wide + 74, top + 10, str(most), anchor="end"))
    shapes += [rectangle(150, 5, 11, 11, "bar2"), text(167, 15, "accuracy")]
    shapes += [rectangle(262, 9, 11, 3, "dot"), text(279, 15, "mean confidence")]
    return svg("Reliability diagram", height, shapes)


def _panel(left: float, wide: float, top: float, bottom: float, title: str, ticks: Sequence[str]) -> list[str]:
    """Axes of a panel whose x axis is the confidence from 0 to 1; ``ticks`` label its y axis from 0 to 1."""
    shapes = [line(left, bottom, left + wide, bottom, "axis"), line(left, top, left, bottom, "axis")]
    for place in range(6):
        shapes.append(text(left + wide * place / 5, bottom + 18, f"{place / 5:g}", anchor="middle"))
    for place, tick in enumerate(ticks):
        y = bottom - (bottom - top) * place / (len(ticks) - 1)
        shapes += [line(left, y, left + wide, y, "axis"), text(left - 7, y + 4, tick, anchor="end")]
    shapes.append(text(left + wide / 2, bottom + 38, "confidence", anchor="middle"))
    return [*shapes, text(left - 7, 15, title)]


def robustness_plot(found: Robustness, columns: int = 4) -> Markup:
    """A panel for each corruption: top-1 by severity, from 0 (not corrupted) on, with its confidence interval."""
    kinds = list(dict.fromkeys(each.corruption for each in found.corrupted))
    wide, tall = (WIDTH - 40) / columns, 150.0
    shapes = []
    for place, kind in enumerate(kinds):
        left, top = 36 + wide * (place % columns), 26 + tall * (place // columns)
        points = [each for each in found.corrupted if each.corruption == kind]
        shapes += _corruption_panel(kind, points, found.clean_top1, left, top, wide - 46, tall - 56)
    return svg("Top-1 by severity of each corruption", 10 + tall * -(-len(kinds) // columns), shapes)


def _corruption_panel(
    kind: str, points: Sequence[CorruptedAccuracy], clean: float, left: float, top: float, wide: float, tall: float
) -> list[str]:
    """One panel; the y axis is top-1 from 0 to 100 %."""
    bottom, last = top + tall, points[-1].severity

    def x(severity: float) -> float:
        return left + wide * severity / last

    def y(percent: float) -> float:
        return bottom - tall * percent / 100

    shapes = [text(left, top - 9, kind, kind="name"), line(left, bottom, left + wide, bottom, "axis")]
    for percent in (0, 50, 100):
        shapes += [line(left, y(percent), left + wide, y(percent), "axis"), text(left - 5, y(percent) + 4, str(percent),
                   anchor="end")]  # fmt: skip
    shapes.append(line(left, y(clean), left + wide, y(clean), "guide"))
    for severity in range(last + 1):
        shapes.append(text(x(severity), bottom + 16, str(severity), anchor="middle"))
    path = " ".join([f"{x(0):.1f},{y(clean):.1f}", *(f"{x(p.severity):.1f},{y(p.top1):.1f}" for p in points)])
    shapes.append(f'<polyline class="ours-line" points="{path}"/>')
    for point in points:
        low, high = point.top1_interval
        tip = f"{kind}, severity {point.severity} ({point.value:g}): {point.top1:.2f} % ({low:.2f} to {high:.2f} %)"
        shapes.append(line(x(point.severity), y(low), x(point.severity), y(high), "ours-line"))
        shapes.append(f'<circle class="ours-dot" cx="{x(point.severity):.1f}" cy="{y(point.top1):.1f}" r="3">'
                      f"<title>{escape(printable(tip))}</title></circle>")  # fmt: skip
    return shapes
