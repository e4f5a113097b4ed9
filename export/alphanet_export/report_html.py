"""A verification report as one HTML page with plots, which needs no other file and no script."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from alphanet_export.latency import Latency
from alphanet_export.report_tables import Section, sections_of

if TYPE_CHECKING:
    from alphanet_export.report import VerificationReport

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5d6b7e; --line: #dfe4ea; --page: #f6f7f9; --card: #fff;
  --bar: #3b76c4; --mark: #c2571a; --good: #1b7f4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b8; --line: #313a47; --page: #14181f;
  --card: #1c222b; --bar: #6ea3e8; --mark: #f0965a; --good: #5bc48d; --bad: #f2857c; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .75rem; }
.verdict { padding: .6rem .9rem; border-left: 4px solid var(--good); background: var(--card); margin: 0 0 1.5rem; }
.failed { border-color: var(--bad); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.2rem;
  margin: 0 0 1rem; }
table { width: 100%; border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; font-weight: normal; }
tr:first-child > * { border-top: 0; }
th { width: 25%; color: var(--soft); }
td { font-variant-numeric: tabular-nums; }
td + td { color: var(--soft); width: 38%; }
svg { display: block; width: 100%; height: auto; margin-top: 1rem; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.bar { fill: var(--bar); } .mark { stroke: var(--mark); stroke-width: 1.5; } .axis { stroke: var(--line); }
svg .label { fill: var(--mark); }
"""


def render(report: VerificationReport) -> str:
    """The report as an HTML page; every text in it is escaped."""
    title = escape(report.model.path.name)
    state = " failed" if report.failures else ""
    parts = []
    for section in sections_of(report):
        plot = ""
        if section.title.startswith("Latency") and report.latency:
            plot = latency_plot(report.latency)
        elif section.title.startswith("Graph") and report.graph_health:
            plot = operator_plot(report.graph_health.optimized_operators)
        parts.append(f"<section>\n<h2>{escape(section.title)}</h2>\n{_table(section)}{plot}</section>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: verification</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<p class="verdict{state}">{escape(report.verdict)}</p>\n{body}\n</main>\n</body>\n</html>\n'
    )


def latency_plot(latency: Latency, width: int = 800, height: int = 180) -> str:
    """An SVG histogram of run times up to the 99th percentile, with median and 90th percentile marked."""
    edges, counts = latency.histogram.edges_ms, latency.histogram.counts
    left, right, top, bottom = 10, width - 10, 28, height - 22
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
    for row, (name, value) in enumerate((("median", latency.median_ms), ("90 %", latency.p90_ms))):
        anchor = "end" if x(value) > 0.8 * width else "start"
        shapes.append(
            f'<line class="mark" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{12 * row + 2}" y2="{bottom}"/>'
            f'<text class="label" x="{x(value) + (-4 if anchor == "end" else 4):.1f}" y="{12 * row + 10}" '
            f'text-anchor="{anchor}">{name} {value:.2f} ms</text>'
        )
    shapes.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    shapes.append(f'<text x="{left}" y="{height - 6}">{edges[0]:.2f} ms</text>')
    last = f"{edges[-1]:.2f} ms" + (f" ({latency.histogram.slower} slower)" if latency.histogram.slower else "")
    shapes.append(f'<text x="{right}" y="{height - 6}" text-anchor="end">{last}</text>')
    return _svg("Histogram of run times", width, height, shapes)


def operator_plot(operators: Mapping[str, int], width: int = 800, most: int = 12) -> str:
    """SVG bars: how many nodes of each operator run."""
    shown = list(operators.items())[:most]
    largest = max((count for _, count in shown), default=1)
    shapes = []
    for row, (name, count) in enumerate(shown):
        y, long = 18 * row, (width - 340) * count / largest
        shapes.append(
            f'<text x="270" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar" x="280" y="{y + 3}" width="{long:.1f}" height="13"/>'
            f'<text x="{286 + long:.1f}" y="{y + 13}">{count}</text>'
        )
    return _svg("Nodes that run, by operator", width, 18 * len(shown) + 4, shapes)


def _svg(title: str, width: int, height: int, shapes: list[str]) -> str:
    """Shapes as an inline picture."""
    inside = "\n".join(shapes)
    return (
        f'\n<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">\n'
        f"<title>{escape(title)}</title>\n{inside}\n</svg>\n"
    )


def _table(section: Section) -> str:
    """A section's rows."""
    rows = (
        f"<tr><th>{escape(label)}</th><td>{escape(value)}</td><td>{escape(remark)}</td></tr>"
        for label, value, remark in section.rows
    )
    return "<table>\n" + "\n".join(rows) + "\n</table>"
