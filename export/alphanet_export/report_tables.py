"""A verification report as tables: for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphanet_export.report import VerificationReport

NOT_MEASURED = "not measured"
QUIET = 0.8
"""Least share of the threads' time on a machine that was quiet enough to time on."""


@dataclass(frozen=True)
class Section:
    """A titled table of a report: rows of (label, value, remark)."""

    title: str
    rows: tuple[tuple[str, str, str], ...]


def render_text(report: VerificationReport) -> str:
    """The report for the terminal."""
    tables = sections_of(report)
    label = max(len(row[0]) for table in tables for row in table.rows)
    value = max(len(row[1]) for table in tables for row in table.rows if row[2])
    lines = [report.model.path.name]
    for table in tables:
        lines += ["", table.title]
        lines += [f"  {a:<{label}}  {b:<{value}}  {c}".rstrip() for a, b, c in table.rows]
    return "\n".join([*lines, "", report.verdict]) + "\n"


def render_markdown(report: VerificationReport) -> str:
    """The report in Markdown."""
    lines = [f"# {_cell(report.model.path.name)}", "", f"**{_cell(report.verdict)}**"]
    for table in sections_of(report):
        lines += ["", f"## {table.title}", "", "| | | |", "|---|---|---|"]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def sections_of(report: VerificationReport) -> tuple[Section, ...]:
    """The report as titled tables."""
    return (
        _file_section(report),
        _parity_section(report),
        _accuracy_section(report),
        _latency_section(report),
        _health_section(report),
        _environment_section(report),
    )


def _file_section(report: VerificationReport) -> Section:
    """What the file is."""
    model, metadata = report.model, report.model.metadata
    macs, params, arch = metadata.get("macs"), metadata.get("params"), model.arch
    batch = "any" if model.batch is None else str(model.batch)
    joined = {name: " ".join(map(str, getattr(arch, name))) for name in ("width", "depth", "kernel_size")}
    expand = " ".join(map(str, arch.expand_ratio))
    return Section(
        "File",
        (
            ("Model", str(metadata.get("name") or "unnamed"), f"{model.num_classes} classes, space {model.space.name}"),
            ("Arch", f"resolution {arch.resolution}, width {joined['width']}", ""),
            ("", f"depth {joined['depth']}, kernel {joined['kernel_size']}, expand {expand}", ""),
            ("MACs", f"{macs / 1e6:.2f} M" if macs else "unknown", "at the arch's resolution"),
            ("Parameters", f"{params / 1e6:.2f} M" if params else "unknown", ""),
            ("Input", f"{batch} x 3 x {model.input_size} x {model.input_size}", f"batch {batch}, opset {model.opset}"),
            ("Size", f"{report.file_bytes / 1e6:.2f} MB", ""),
            ("Calibration", _calibration(metadata.get("calibration")), "batch-norm statistics"),
            ("SHA-256 of the graph", _short(model.graph_sha256), "without metadata; in full in the JSON"),
            ("SHA-256 of the weights", _short(metadata.get("weights_sha256")), "as the export recorded it"),
        ),
    )


def _parity_section(report: VerificationReport) -> Section:
    """The file against its reference, or against itreport."""
    rows = []
    if report.reference:
        weights = f" with weights {report.reference.weights}" if report.reference.weights else ""
        rows.append(("Reference", f"{report.reference.name}{weights}", _weights_remark(report)))
    if report.parity is None:
        rows.append(("Against PyTorch", NOT_MEASURED, "give --reference to compare with the network it came from"))
    for name, parity in (("PyTorch", report.parity), ("unoptimised", report.consistency)):
        for level in parity.levels if parity else ():
            ties = f", {level.ties} of them ties" if level.ties else ""
            rows.append(
                (
                    f"Level {level.level} against {name}",
                    f"{level.max_relative_error:.2e}",
                    f"top-1 agreement {100 * level.top1_agreement:.1f} %{ties}",
                )
            )
        if parity:
            kind = "synthetic images" if parity.synthetic else f"images of {report.data.folder}"
            rows.append(("Tolerance", f"{parity.tolerance:.0e}", f"{parity.images} {kind}"))
    return Section("Parity (largest relative error of the logits)", tuple(rows))


def _weights_remark(report: VerificationReport) -> str:
    """Whether the reference's weights are those that the file was made from."""
    ours, theirs = report.model.metadata.get("weights_sha256"), report.reference and report.reference.weights_sha256
    if not ours or not theirs:
        return "weights not comparable by digest"
    return "the weights recorded in the file" if ours == theirs else "NOT the weights recorded in the file"


def _accuracy_section(report: VerificationReport) -> Section:
    """Top-1 and top-5."""
    if report.accuracy is None:
        return Section("Accuracy", (("Top-1", NOT_MEASURED, "give --data with labelled images"),))
    accuracy = report.accuracy
    floor = "" if report.min_top1 is None else f", floor {report.min_top1:g} %"
    rows = [("Top-1", f"{accuracy.top1:.2f} %", _interval(accuracy.top1_interval, "%") + floor)]
    if accuracy.top5 is not None and accuracy.top5_interval is not None:
        rows.append(("Top-5", f"{accuracy.top5:.2f} %", _interval(accuracy.top5_interval, "%")))
    rows.append(("Images", str(accuracy.images), f"{accuracy.classes} classes, folder {report.data.folder}"))
    return Section("Accuracy (95 % Wilson intervals)", tuple(rows))


def _latency_section(report: VerificationReport) -> Section:
    """Time and memory."""
    latency, memory = report.latency, report.memory
    if latency is None:
        rows = [("Median", NOT_MEASURED, "")]
    else:
        target = "" if report.max_latency_ms is None else f", target {report.max_latency_ms:g} ms"
        rows = [
            ("Median", f"{latency.median_ms:.2f} ms", _interval(latency.median_interval_ms, "ms") + target),
            ("90th, 99th percentile", f"{latency.p90_ms:.2f}, {latency.p99_ms:.2f} ms", f"{latency.repeats} runs"),
            ("Mean, fastest", f"{latency.mean_ms:.2f}, {latency.min_ms:.2f} ms", ""),
            (
                "Throughput",
                f"{latency.images_per_second:.1f} images/s",
                f"batch {latency.batch}, {latency.threads} threads",
            ),
            ("CPU share", f"{100 * latency.cpu_share:.0f} %", _busy(latency.cpu_share)),
            ("Loading", f"{latency.load_ms:.0f} ms", "once"),
        ]
    if memory is None:
        rows.append(("Peak memory", NOT_MEASURED, ""))
    else:
        rows.append(
            ("Peak memory", f"{memory.peak_mb:.0f} MB", f"above the {memory.baseline_mb:.0f} MB of the runtime")
        )
    return Section("Latency and memory (ONNX Runtime, CPU; 95 % bootstrap interval)", tuple(rows))


def _health_section(report: VerificationReport) -> Section:
    """What the runtime made of the graph."""
    health = report.graph_health
    if health is None:
        return Section("Graph", (("Nodes", NOT_MEASURED, ""),))
    blocked = f"{health.blocked_convolutions} of {health.convolutions} convolutions"
    return Section(
        "Graph (in the file, and as optimised for this CPU)",
        (
            ("Nodes", str(health.nodes), f"{health.optimized_nodes} after optimisation"),
            ("Blocked layout", blocked, "the fast kernels"),
            ("Fused nodes", str(health.fused_nodes), "do more than one operator's work"),
            ("Reorder nodes", str(health.reorder_nodes), "convert layouts, compute nothing"),
            ("Leftover nodes", str(health.leftovers), "BatchNormalization, Cast, Dropout, Identity"),
            ("Resize nodes", str(health.resizes), ""),
        ),
    )


def _environment_section(report: VerificationReport) -> Section:
    """Where and when."""
    here = report.environment
    versions = f"Python {here.python}, ONNX Runtime {here.onnxruntime}, onnx {here.onnx}, torch {here.torch}"
    return Section(
        "Measured on",
        (
            ("CPU", here.cpu, f"{here.cores} physical cores, {here.system}"),
            ("Versions", versions, ""),
            ("Date", here.date, f"alphanet-zoo {here.alphanet_zoo}"),
        ),
    )


def _interval(bounds: tuple[float, float], unit: str) -> str:
    """An interval in words."""
    return f"{bounds[0]:.2f} to {bounds[1]:.2f} {unit}"


def _busy(cpu_share: float) -> str:
    """What the share of the threads' time that the system gave says of the figures."""
    return "of the threads' time" if cpu_share >= QUIET else "OTHER PROGRAMS HAD THE CORES: times are too long"


def _short(digest: Any) -> str:
    """The start of a digest."""
    return f"{str(digest)[:16]}..." if digest else "unknown"


def _calibration(record: Any) -> str:
    """Where batch-norm statistics come from, in words."""
    if isinstance(record, Mapping):
        return f"{record.get('images')} images in {record.get('batches')} batches"
    return str(record) if record else "unknown"


def _cell(text: str) -> str:
    """A text inside a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
