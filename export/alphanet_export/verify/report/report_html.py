"""A verification report as one HTML page with plots, which needs no other file and no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from alphanet_export.verify.report.page import cards, html_page, section
from alphanet_export.verify.report.plots import agreement_plot, latency_plot, operator_plot, ratio_plot, throughput_plot
from alphanet_export.verify.report.report_tables import sections_of
from alphanet_export.verify.report.tables import Section

if TYPE_CHECKING:
    from alphanet_export.verify.report.report import VerificationReport


def render(report: VerificationReport) -> str:
    """The report as an HTML page; every text in it is escaped."""
    name = report.model.path.name
    parts = [
        f'<h1>{escape(name)}</h1>\n<p class="lead">{escape(_lead(report))}</p>',
        f'<p class="verdict{" failed" * bool(report.failures)}">{escape(report.verdict)}</p>',
        cards(_key_figures(report)),
    ]
    plots = _plots(report)
    for part in sections_of(report):
        parts.append(section(part.title, _table(part) + plots.get(part.key, ""), part.remark))
    return html_page(f"{name}: verification", "\n".join(parts))


def _lead(report: VerificationReport) -> str:
    """The file in one line."""
    model = report.model
    name = model.metadata.get("name") or "unnamed"
    return (
        f"{name}, {model.num_classes} classes, {model.input_size} x {model.input_size} pixels; "
        f"{report.environment.cpu}, {report.environment.date[:10]}"
    )


def _key_figures(report: VerificationReport) -> list[tuple[str, str]]:
    """The figures that most readers come for."""
    found = []
    if report.accuracy:
        found.append((f"{report.accuracy.top1:.2f} %", f"top-1 on {report.accuracy.images} images"))
    if parity := report.parity or report.consistency:
        against = "PyTorch" if report.parity else "the unoptimised graph"
        found.append((f"{parity.max_relative_error:.1e}", f"largest relative error against {against}"))
    if latency := report.latency:
        threads = f"{latency.threads} thread{'s' * (latency.threads > 1)}"
        found.append((f"{latency.median_ms:.2f} ms", f"median latency, batch {latency.batch}, {threads}"))
    if report.throughput:
        best = max(report.throughput, key=lambda point: point.images_per_second)
        found.append((f"{best.images_per_second:.1f} /s", f"most images a second, batch {best.batch}"))
    if report.timing_ratio:
        found.append((f"{report.timing_ratio.ratio:.3f}", f"of the time of {report.timing_ratio.other}"))
    if report.memory:
        found.append((f"{report.memory.peak_mb:.0f} MB", "peak memory above the runtime"))
    if found:
        found.append((f"{report.file_bytes / 1e6:.1f} MB", "file"))
    return found


def _plots(report: VerificationReport) -> dict[str, str]:
    """The plot below the table of a section, by the section's key."""
    plots = {}
    if report.mcnemar:
        plots["accuracy"] = agreement_plot(report.mcnemar)
    if report.latency:
        plots["latency"] = latency_plot(report.latency)
    if report.throughput:
        plots["throughput"] = throughput_plot(report.throughput)
    if report.timing_ratio:
        plots["ratio"] = ratio_plot(report.timing_ratio)
    if report.graph_health:
        plots["graph"] = operator_plot(report.graph_health.optimized_operators)
    return plots


def _table(part: Section) -> str:
    """A section's rows."""
    rows = (
        f"<tr><th>{escape(label)}</th><td>{escape(value)}</td><td>{escape(remark)}</td></tr>"
        for label, value, remark in part.rows
    )
    return '<table class="facts">\n' + "\n".join(rows) + "\n</table>"
