"""The table of classifiers as text, Markdown, JSON and one HTML page with a scatter."""

from __future__ import annotations

import json
from html import escape

from alphanet_export.verify.report.page import html_page, section
from alphanet_export.verify.report.plots import WIDTH, line, svg, text
from alphanet_export.verify.report.table import ComparisonTable, Figures, Row
from alphanet_export.verify.report.tables import cell, interval

RUNTIME_NAMES = {
    "pytorch": "PyTorch",
    "pytorch-compiled": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "executorch": "ExecuTorch",
}


def notes(table: ComparisonTable) -> tuple[str, ...]:
    """What a reader must know of the table, one sentence or two each."""
    threads = f"{table.threads} thread{'s' * (table.threads > 1)}"
    random = [row.name for row in table.rows if row.weights == "random"]
    kept = [
        "Top-1 is published, not measured here: in percent on ImageNet's validation images, by "
        + "; ".join(dict.fromkeys(row.source for row in table.rows if row.top1 is not None))
        + ".",
        f"Times were measured on this machine, {table.clock} with {threads}: median of one image over {table.rounds} "
        f"rounds with its 95 % bootstrap interval; each round runs every model once, in random order. Throughput is at "
        f"batch {table.batch}.",
        "Every model went through the same exporters and got the same rewrites of its graph; each runtime ran all of "
        "them in one process.",
    ]
    if random:
        every = "All models were" if len(random) == len(table.rows) else f"{', '.join(random)} were"
        kept.insert(0, f"{every} measured with random weights: the table says how fast they are, and nothing of their "
                       "accuracy; a network's time does not depend on its weights.")  # fmt: skip
    if any(not row.ours for row in table.rows):
        kept.append("timm has weights of efficientnet_b0 and mobilenetv3_large_100 that were trained for longer "
                    "(ra4_e3600) than its default ones, which are shown.")  # fmt: skip
    return tuple(kept)


def render_text(table: ComparisonTable) -> str:
    """For the terminal."""
    header, rows = _header(table), [_cells(table, row) for row in table.rows]
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    shown = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
             for row in (header, *rows)]  # fmt: skip
    return "\n".join([*shown, "", *notes(table), "", _measured_on(table)]) + "\n"


def render_markdown(table: ComparisonTable) -> str:
    """Markdown."""
    header = _header(table)
    lines = [f"# {_title(table)}", "", "| " + " | ".join(map(cell, header)) + " |", "|---" * len(header) + "|"]
    lines += ["| " + " | ".join(map(cell, _cells(table, row))) + " |" for row in table.rows]
    return "\n".join([*lines, "", *(f"- {cell(note)}" for note in notes(table)), "", _measured_on(table)]) + "\n"


def render_json(table: ComparisonTable) -> str:
    """JSON."""
    return json.dumps(table.to_dict(), indent=2, allow_nan=False) + "\n"


def render_html(table: ComparisonTable) -> str:
    """One page that needs no other file; every text in it is escaped."""
    header = "".join(f"<th{_number(i)}>{escape(name)}</th>" for i, name in enumerate(_header(table)))
    rows = "\n".join(_html_row(table, row) for row in table.rows)
    listed = "".join(f"<li>{escape(note)}</li>\n" for note in notes(table))
    grid = f'<table class="grid">\n<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n'
    scatters = [
        section(f"Published top-1 against latency in {_runtime(runtime)}", plot, _axis(table))
        for runtime in table.runtimes
        if (plot := scatter(table, runtime))
    ]
    parts = [
        f'<h1>{escape(_title(table))}</h1>\n<p class="lead">{escape(_measured_on(table))}</p>',
        *scatters,
        section("The models", grid + f'<ul class="notes">\n{listed}</ul>\n'),
    ]
    return html_page(_title(table), "\n".join(parts))


def scatter(table: ComparisonTable, runtime: str, height: int = 380) -> str:
    """Published top-1 against measured latency, with its interval; empty where fewer than two models have both."""
    points = [(row, row.figures[runtime], row.top1) for row in table.rows if row.top1 is not None]
    if len(points) < 2:
        return ""
    slowest = max(figures.median_interval_ms[1] for _, figures, _ in points)
    tops = [top1 for _, _, top1 in points]
    low, high = min(tops) - 0.5, max(tops) + 0.5
    left, right, top, bottom = 46, WIDTH - 20, 14, height - 40

    def x(milliseconds: float) -> float:
        return left + (right - left) * milliseconds / (1.12 * slowest)

    def y(percent: float) -> float:
        return bottom - (bottom - top) * (percent - low) / (high - low)

    shapes = [line(left, bottom, right, bottom, "axis"), line(left, top, left, bottom, "axis")]
    for percent in range(int(low) + 1, int(high) + 1):
        shapes += [line(left, y(percent), right, y(percent), "axis"), text(left - 8, y(percent) + 4, f"{percent}",
                                                                           anchor="end")]  # fmt: skip
    step = _step(1.12 * slowest)
    for tick in range(int(1.12 * slowest / step) + 1):
        shapes.append(text(x(tick * step), bottom + 17, f"{tick * step:g}", anchor="middle"))
    shapes.append(text((left + right) / 2, height - 5, "latency of one image, ms", anchor="middle"))
    shapes.append(text(left + 6, top + 8, "top-1, %"))
    family = sorted((figures.median_ms, top1) for row, figures, top1 in points if row.ours)
    shapes.append(
        '<polyline class="ours-line" points="' + " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in family) + '"/>'
    )
    for row, figures, top1 in points:
        shapes += _point(row, figures, x(figures.median_ms), y(top1), [x(ms) for ms in figures.median_interval_ms])
    return svg(f"Published top-1 against latency in {_runtime(runtime)}", height, shapes)


def _point(row: Row, figures: Figures, x: float, y: float, ends: list[float]) -> list[str]:
    """A model's dot, whisker and name; the family's names stand above its line, others' below their dots."""
    kind = "ours" if row.ours else "theirs"
    tip = f"{row.name}: {row.top1} %, {figures.median_ms:.2f} ms"
    dot = f'<circle class="{kind}-dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(tip)}</title></circle>'
    name = row.name.removeprefix("alphanet_")
    if row.ours:
        words = text(x - 8, y - 7, name, anchor="end", kind="name")
    else:
        words = text(x, y + 18, name, anchor="end" if x > 0.85 * WIDTH else "middle", kind="name")
    return [line(ends[0], y, ends[1], y, f"{kind}-line"), dot, words]


def _step(span: float) -> float:
    """A round distance of some five to ten marks on an axis of that length."""
    power = 10.0 ** (len(str(int(span))) - 2) if span >= 1 else 0.1
    return next(factor * power for factor in (1, 2, 5, 10, 20, 50) if span / (factor * power) <= 10)


def _title(table: ComparisonTable) -> str:
    """The title."""
    return "AlphaNet against other classifiers" if any(not row.ours for row in table.rows) else "The AlphaNet family"


def _measured_on(table: ComparisonTable) -> str:
    """Where and when."""
    here = table.environment
    versions = f"ONNX Runtime {here.onnxruntime}, torch {here.torch}, Python {here.python}"
    return f"{here.cpu}, {here.cores} physical cores, {here.system}; {versions}; {here.date[:10]}"


def _axis(table: ComparisonTable) -> str:
    """How the times of a scatter were measured."""
    return (
        f"{table.clock}, {table.threads} thread{'s' * (table.threads > 1)}, batch 1; higher and further left is better"
    )


def _runtime(name: str) -> str:
    """A runtime as people call it."""
    return RUNTIME_NAMES.get(name, name)


def _header(table: ComparisonTable) -> list[str]:
    """The names of the columns."""
    fixed = ["model", "top-1 %, published", "input", "MACs (M)", "params (M)", "ONNX (MB)"]
    for runtime in table.runtimes:
        fixed.append(f"{_runtime(runtime)}, ms")
        fixed += [f"of {table.anchor}"] if table.anchor else []
        fixed.append(f"images/s, batch {table.batch}")
    return fixed


def _fixed(row: Row) -> list[str]:
    """The cells that no runtime changes."""
    top1 = "-" if row.top1 is None else f"{row.top1:.2f}"
    return [row.name, top1, str(row.size), f"{row.macs / 1e6:.1f}", f"{row.params / 1e6:.2f}",
            f"{row.file_bytes / 1e6:.1f}"]  # fmt: skip


def _cells(table: ComparisonTable, row: Row) -> list[str]:
    """A row as words."""
    words = _fixed(row)
    for runtime in table.runtimes:
        for value, spread in _measured(row.figures[runtime]):
            words.append(f"{value} ({spread})" if spread else value)
    return words


def _measured(figures: Figures) -> list[tuple[str, str]]:
    """The cells of one runtime: value and interval."""
    kept = [(f"{figures.median_ms:.2f}", interval(figures.median_interval_ms, ""))]
    if figures.ratio is not None and figures.ratio_interval is not None:
        kept.append((f"{figures.ratio:.3f}", interval(figures.ratio_interval, "", 3)))
    return [*kept, (f"{figures.images_per_second:.1f}", "")]


def _html_row(table: ComparisonTable, row: Row) -> str:
    """A row with intervals below their values."""
    pairs = [(word, "") for word in _fixed(row)]
    for runtime in table.runtimes:
        pairs += _measured(row.figures[runtime])
    cells = "".join(
        f"<td{_number(i)}>{escape(value)}{f'<small>{escape(spread)}</small>' if spread else ''}</td>"
        for i, (value, spread) in enumerate(pairs)
    )
    return f"<tr{' class=' + chr(34) + 'ours' + chr(34) if row.ours else ''}>{cells}</tr>"


def _number(column: int) -> str:
    """The class of a column of numbers; the first is the name."""
    return ' class="number"' if column else ""
