"""Elements of plots as inline SVG. Their colours are CSS classes of the page that contains them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

WIDTH = 800
"""Width of a plot in its own units; the page scales it."""
CURVES = 6
"""Number of CSS classes ``curve-0``, ``curve-1``, ... for curves and their legend."""
_ROW = 22
"""Height of a row of the legend."""

Points = Sequence[tuple[float, float]]


def printable(text: str) -> str:
    r"""``text`` on one line, with characters that a terminal could interpret shown as escape sequences (``\x1b``)."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def svg(title: str, height: float, shapes: Sequence[str]) -> Markup:
    """SVG elements as an inline picture. The title is escaped here; the shapes must be escaped."""
    label, inside = escape(printable(title)), "\n".join(shapes)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">\n'
        f"<title>{label}</title>\n{inside}\n</svg>"
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    """Words at a point; escaped here."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(printable(words))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def curve_plot(
    title: str,
    x_label: str,
    curves: Mapping[str, Points],
    *,
    shades: Mapping[str, int] | None = None,
    unit: str = "",
    height: int = 260,
    dots: bool = False,
) -> Markup:
    """Curves over a common x axis, with a legend that has the last value of each.

    Args:
        title: Title of the picture.
        x_label: Label of the x axis.
        curves: Finite points of each curve by ascending x, by name; every curve has at least one.
        shades: Number of the CSS class of each curve, by name; None numbers the curves in order.
        unit: Unit of the values, after each of them.
        height: Height of the picture.
        dots: Mark every point.
    """
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    (left, right), (x0, x1) = (62.0, WIDTH - 14.0), (min(xs), max(xs))
    shades = {name: number for number, name in enumerate(curves)} if shades is None else shades
    legend = _legend({name: points[-1][1] for name, points in curves.items()}, shades, unit)
    top, bottom = _ROW * legend[1] + 14.0, height - 40.0
    ticks = axis_ticks(min(ys), max(ys))
    y0, y1 = min(*ys, ticks[0]), max(*ys, ticks[-1])

    def across(x: float) -> float:
        return left + (right - left) * (x - x0) / ((x1 - x0) or 1.0)

    def up(y: float) -> float:
        return bottom - (bottom - top) * (y - y0) / ((y1 - y0) or 1.0)

    shapes = list(legend[0])
    for tick in ticks:
        shapes += [
            line(left, up(tick), right, up(tick), "axis"),
            text(left - 7, up(tick) + 4, f"{tick:g}", anchor="end"),
        ]
    for tick in axis_ticks(x0, x1) if x1 > x0 else [x0]:
        if x0 <= tick <= x1:
            shapes.append(text(across(tick), bottom + 17, f"{tick:g}", anchor="middle"))
    shapes.append(text((left + right) / 2, height - 4, x_label, anchor="middle"))
    for name, points in curves.items():
        kind = f"curve-{shades[name] % CURVES}"
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        tip = escape(printable(name))
        shapes.append(f'<polyline class="curve {kind}" points="{path}"><title>{tip}</title></polyline>')
        if dots or len(points) == 1:
            shapes += [
                f'<circle class="{kind} spot" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5">'
                f"<title>{tip}, {x:g}: {y:.4g} {escape(unit)}</title></circle>"
                for x, y in points
            ]
    return svg(title, height, shapes)


def _legend(values: Mapping[str, float], shades: Mapping[str, int], unit: str) -> tuple[list[str], int]:
    """The legend's shapes, and its number of rows."""
    shapes, x, row = [], 10.0, 0
    for name, value in values.items():
        words = f"{name} {value:.4g} {unit}".rstrip()
        wide = 34 + 10.4 * len(words)  # Wide enough for the larger text that pages use on a narrow screen.
        if x + wide > WIDTH and x > 10:
            x, row = 10.0, row + 1
        y = _ROW * row
        shapes.append(
            f'<rect class="curve-{shades[name] % CURVES} spot" x="{x:.1f}" y="{y + 7}" width="11" height="11"/>'
        )
        shapes.append(text(x + 17, y + 17, words))
        x += wide
    return shapes, row + 1


def axis_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values for an axis that covers ``low`` to ``high``, ascending; the first is at most ``low``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if span / (factor * power) <= most)
    first = math.floor(low / step + 1e-9)
    return [round(step * number, 12) for number in range(first, math.ceil(high / step - 1e-9) + 1)]
