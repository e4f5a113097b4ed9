"""Plots as inline SVG. Their colours are classes of ``templates/style.css``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from alphanet_export.verify.measure.ab import TimingRatio
from alphanet_export.verify.measure.latency import Latency, Throughput
from alphanet_export.verify.measure.mcnemar import McNemar
from alphanet_zoo.svg import WIDTH, line, svg, text

_SHADES = ("bar", "bar2", "bar3")


def latency_plot(latency: Latency, height: int = 204) -> Markup:
    """Histogram of run times up to the 99th percentile, with the median and the 90th percentile marked."""
    edges, counts = latency.histogram.edges_ms, latency.histogram.counts
    left, right, top, bottom = 10, WIDTH - 10, 46, height - 24
    span = edges[-1] - edges[0] or 1.0
    tallest = max(*counts, 1)

    def x(value: float) -> float:
        return left + (right - left) * (value - edges[0]) / span

    shapes = []
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        tall = (bottom - top) * count / tallest
        shapes.append(
            f'<rect class="bar" x="{x(low):.1f}" y="{bottom - tall:.1f}" width="{max(x(high) - x(low) - 1, 0.5):.1f}" '
            f'height="{tall:.1f}"><title>{low:.3f} to {high:.3f} ms: {count} runs</title></rect>'
        )
    for row, (name, value) in enumerate((("median", latency.median_ms), ("90th percentile", latency.p90_ms))):
        late = x(value) > 0.8 * WIDTH
        shapes.append(line(x(value), 20 * row + 2, x(value), bottom, "mark"))
        words = f"{name} {value:.2f} ms"
        shapes.append(text(x(value) + (-5 if late else 5), 20 * row + 15, words, anchor="end" if late else "start",
                           kind="label"))  # fmt: skip
    last = f"{edges[-1]:.2f} ms" + (f" ({latency.histogram.slower} slower)" if latency.histogram.slower else "")
    shapes.append(line(left, bottom, right, bottom, "axis"))
    shapes += [text(left, height - 6, f"{edges[0]:.2f} ms"), text(right, height - 6, last, anchor="end")]
    return svg("Histogram of run times", height, shapes)


def throughput_plot(points: Sequence[Throughput], height: int = 200) -> Markup:
    """Images per second: a group of bars for each batch size, a bar for each number of threads."""
    batches = sorted({point.batch for point in points})
    threads = sorted({point.threads for point in points})
    most = max(point.images_per_second for point in points)
    top, bottom, group = 46, height - 26, (WIDTH - 20) / len(batches)
    wide = min(60.0, 0.8 * group / len(threads))
    shapes = [line(10, bottom, WIDTH - 10, bottom, "axis")]
    for point in points:
        column, place = batches.index(point.batch), threads.index(point.threads)
        middle = 10 + group * (column + 0.5) + wide * (place + 0.5 - len(threads) / 2)
        tall = (bottom - top) * point.images_per_second / most
        shade = _SHADES[min(len(threads) - 1 - place, len(_SHADES) - 1)]
        shapes.append(
            f'<rect class="{shade}" x="{middle - wide / 2 + 1:.1f}" y="{bottom - tall:.1f}" '
            f'width="{wide - 2:.1f}" height="{tall:.1f}"/>'
        )
        shapes.append(text(middle, bottom - tall - 5, f"{point.images_per_second:.1f}", anchor="middle"))
    for column, batch in enumerate(batches):
        shapes.append(
            text(10 + group * (column + 0.5), height - 7, f"batch size {batch}", anchor="middle", kind="name")
        )
    for place, count in enumerate(threads):
        shade = _SHADES[min(len(threads) - 1 - place, len(_SHADES) - 1)]
        shapes.append(f'<rect class="{shade}" x="{12 + 130 * place}" y="5" width="11" height="11"/>')
        shapes.append(text(28 + 130 * place, 15, f"{count} thread{'s' * (count > 1)}"))
    return svg("Images per second, by batch size and threads", height, shapes)


def ratio_plot(ratio: TimingRatio, height: int = 84) -> Markup:
    """The ratio with its interval, on an axis that includes 1 (equally fast)."""
    low, high = min(ratio.ratio_interval[0], 0.95), max(ratio.ratio_interval[1], 1.05)
    margin = 0.06 * (high - low)
    low, high, middle = low - margin, high + margin, 40

    def x(value: float) -> float:
        return 20 + (WIDTH - 40) * (value - low) / (high - low)

    shapes = [
        line(20, middle, WIDTH - 20, middle, "axis"),
        line(x(1.0), 18, x(1.0), height - 22, "guide"),
        text(x(1.0), 12, "equally fast", anchor="middle"),
        text(20, height - 6, "this file is faster"),
        text(WIDTH - 20, height - 6, f"{ratio.other} is faster", anchor="end"),
        f'<line class="mark" style="stroke-width:6;opacity:.35" x1="{x(ratio.ratio_interval[0]):.1f}" '
        f'x2="{x(ratio.ratio_interval[1]):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<circle class="dot" cx="{x(ratio.ratio):.1f}" cy="{middle}" r="5"/>',
        text(x(ratio.ratio), middle + 22, f"{ratio.ratio:.3f}", anchor="middle", kind="label"),
    ]
    return svg("Ratio of the median times, with its 95 % confidence interval", height, shapes)


def agreement_plot(test: McNemar, height: int = 70) -> Markup:
    """One bar of all images: classified correctly by both, by one only, by neither."""
    parts = (
        ("both correct", test.both_right, "bar"),
        ("only PyTorch", test.only_reference, "lost"),
        ("only the file", test.only_file, "won"),
        ("neither", test.both_wrong, "bar3"),
    )
    shapes, x = [], 10.0
    for column, (name, count, kind) in enumerate(parts):
        wide = (WIDTH - 20) * count / test.images
        shapes.append(f'<rect class="{kind}" x="{x:.1f}" y="4" width="{wide:.1f}" height="24"/>')
        key = 12 + 195 * column
        shapes.append(f'<rect class="{kind}" x="{key}" y="42" width="11" height="11"/>')
        shapes.append(text(key + 17, 52, f"{name}: {count}"))
        x += wide
    return svg("Images classified correctly by both, by one only and by neither", height, shapes)


def operator_plot(operators: Mapping[str, int], most: int = 12) -> Markup:
    """Bars: number of nodes of each operator in the optimised graph."""
    shown = list(operators.items())[:most]
    largest = max((count for _, count in shown), default=1)
    shapes = []
    for row, (name, count) in enumerate(shown):
        y, long = 19 * row, (WIDTH - 340) * count / largest
        shapes.append(text(270, y + 14, name, anchor="end"))
        shapes.append(f'<rect class="bar" x="280" y="{y + 3}" width="{long:.1f}" height="13" rx="2"/>')
        shapes.append(text(287 + long, y + 14, str(count)))
    return svg("Nodes after optimisation, by operator", 19 * len(shown) + 4, shapes)
