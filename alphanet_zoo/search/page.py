"""A web page of accuracy against cost, in one file without scripts from elsewhere."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from alphanet_zoo.files import replacing
from alphanet_zoo.search.limits import LATENCY, MACS, PARAMS, UNITS

WIDTH, HEIGHT, MARGIN = 860, 480, 60
"""Size of the plot and of its margin, in pixels."""
TICKS = 5

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
svg{width:100%;height:auto}text{font-size:12px;fill:#444}.grid{stroke:#ddd}.all{fill:#b5b5b5}.front{fill:#1f6fb2}
.line{fill:none;stroke:#1f6fb2;stroke-width:1.5}circle:hover{stroke:#c00;stroke-width:3}
table{border-collapse:collapse}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
pre{white-space:pre-wrap;background:#f5f5f5;padding:1rem}"""


def write_page(
    path: str | os.PathLike[str], evaluated: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]
) -> None:
    """Writes the page: the plot, in which each subnet has its figures as hover text, the front, and the provenance.

    Args:
        path: The HTML file.
        evaluated: The fully scored subnets, see `alphanet_zoo.search.run.entries_of`; at least one.
        provenance: Supernet, images and settings; ``axis`` is the cost of the front.
    """
    axis = str(provenance.get("axis", MACS))
    front = [entry for entry in evaluated if entry["front"]]
    warning = "<p><strong>The subnets were scored on images in a folder named test.</strong></p>"
    body = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Pareto front</title>
<style>{_STYLE}</style></head><body><h1>Pareto front</h1>
<p>{len(front)} of {provenance.get("evaluations", len(evaluated))} evaluated subnets are on the front.</p>
{warning if provenance.get("test_images") else ""}{_plot(evaluated, front, axis)}{_table(front)}
<h2>Provenance</h2><pre>{html.escape(json.dumps(dict(provenance), indent=1))}</pre></body></html>
"""
    with replacing(path) as temporary:
        temporary.write_text(body, "utf-8")


def _plot(evaluated: Sequence[Mapping[str, Any]], front: Sequence[Mapping[str, Any]], axis: str) -> str:
    """The plot as inline SVG."""
    scale = 1.0 if axis == LATENCY else 1e6
    costs, scores = [e[axis] / scale for e in evaluated], [_score(e) for e in evaluated]
    (left, right), (low, high) = ((min(v), max(v)) for v in (costs, scores))
    right, high = max(right, left + 1e-9), max(high, low + 1e-9)

    def place(entry: Mapping[str, Any]) -> tuple[float, float]:
        x = MARGIN + (entry[axis] / scale - left) / (right - left) * (WIDTH - 2 * MARGIN)
        y = HEIGHT - MARGIN - (_score(entry) - low) / (high - low) * (HEIGHT - 2 * MARGIN)
        return round(x, 1), round(y, 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="score against {UNITS[axis]}">']
    for i in range(TICKS + 1):
        share = i / TICKS
        x, y = MARGIN + share * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)
        parts.append(f'<line class="grid" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{low + share * (high - low):.4g}</text>'
                     f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">'
                     f"{left + share * (right - left):.4g}</text>")  # fmt: skip
    points = " ".join(f"{x},{y}" for x, y in map(place, front))
    parts.append(f'<polyline class="line" points="{points}"/>')
    for entry in sorted(evaluated, key=lambda e: bool(e["front"])):
        x, y = place(entry)
        kind, radius = ("front", 5) if entry["front"] else ("all", 3.5)
        parts.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{_hover(entry)}</title></circle>')
    unit = "ms" if axis == LATENCY else f"million {UNITS[axis]}"
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{unit}</text>'
                 f'<text x="12" y="{MARGIN - 20}">{_measure(evaluated[0])}</text></svg>')  # fmt: skip
    return "".join(parts)


def _table(front: Sequence[Mapping[str, Any]]) -> str:
    """The front as a table."""
    latency = "<th>ms</th>" if LATENCY in front[0] else ""
    rows = [f"<tr><th>#</th><th>MACs (M)</th><th>params (M)</th>{latency}<th>{_measure(front[0])}</th>"
            "<th>95 % interval</th></tr>"]  # fmt: skip
    for number, entry in enumerate(front, 1):
        time = f"<td>{entry[LATENCY]:.2f}</td>" if LATENCY in entry else ""
        interval = " to ".join(f"{100 * bound:.2f}" for bound in entry.get("interval", ())) or "-"
        rows.append(f"<tr><td>{number}</td><td>{entry[MACS] / 1e6:.2f}</td><td>{entry[PARAMS] / 1e6:.2f}</td>{time}"
                    f"<td>{_score(entry):.4g}</td><td>{interval}</td></tr>")  # fmt: skip
    return f"<h2>Front</h2><table>{''.join(rows)}</table>"


def _hover(entry: Mapping[str, Any]) -> str:
    """The figures and the arch of a subnet."""
    time = f", {entry[LATENCY]:.2f} ms" if LATENCY in entry else ""
    figures = f"{_measure(entry)} {_score(entry):.4g}, {entry[MACS] / 1e6:.2f} M MACs, " \
              f"{entry[PARAMS] / 1e6:.2f} M parameters{time}"  # fmt: skip
    return html.escape(f"{figures}\n{json.dumps(entry['arch'])}")


def _score(entry: Mapping[str, Any]) -> float:
    """The score; an accuracy in percent."""
    return float(100 * entry["accuracy"] if "accuracy" in entry else entry["score"])


def _measure(entry: Mapping[str, Any]) -> str:
    """The name of the score."""
    return "top-1 (%)" if "accuracy" in entry else "score"
