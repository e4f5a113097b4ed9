"""The content of a verification report: its sections, key figures and verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphanet_export.formats import FORMATS
from alphanet_export.metadata import ExportedModel
from alphanet_export.verify.measure.parity import INT8_LEAST_DB, Parity
from alphanet_export.verify.report.accuracy_sections import accuracy_sections
from alphanet_export.verify.report.figures import VerificationFigures
from alphanet_export.verify.report.plots import operator_plot
from alphanet_export.verify.report.render import (
    NOT_MEASURED,
    Document,
    Row,
    Section,
    in_thousands,
    threads_of,
)
from alphanet_export.verify.report.time_sections import QUIET, latency_section, ratio_section, throughput_section
from alphanet_zoo.units import file_size


def document_of(report: VerificationFigures) -> Document:
    """A report, ready to be shown."""
    model, here = report.model, report.environment
    name = str(model.metadata.get("name") or "unnamed")
    size = f"{model.input_size} x {model.input_size} pixels"
    return Document(
        title=model.path.name,
        lead=f"{name}, {model.num_classes} classes, {size}; {here.cpu}, {here.date[:10]}",
        verdict=report.verdict,
        failed=bool(report.failures),
        figures=tuple(_key_figures(report)),
        sections=(
            _file_section(report),
            _parity_section(report),
            *accuracy_sections(report),
            latency_section(report),
            throughput_section(report),
            *([ratio_section(report.timing_ratio, report.max_ratio)] if report.timing_ratio else []),
            _graph_section(report),
            _environment_section(report),
        ),
    )


def _key_figures(report: VerificationFigures) -> list[tuple[str, str]]:
    """The most important figures, as (value, label)."""
    found = []
    if report.accuracy:
        found.append((f"{report.accuracy.top1:.2f} %", f"top-1 on {report.accuracy.images} images"))
    if parity := report.parity or report.consistency:
        found.append((f"{parity.max_relative_error:.1e}", f"largest relative error vs {parity.reference}"))
    if latency := report.latency:
        run = f"batch size {latency.batch}, {threads_of(latency.threads)}"
        busy = latency.cpu_share is not None and latency.cpu_share < QUIET
        note = "; too long, because other programs used the CPU" if busy else ""
        found.append((f"{latency.median_ms:.2f} ms", f"median latency, {run}{note}"))
    if report.throughput:
        best = max(report.throughput, key=lambda point: point.images_per_second)
        found.append((f"{best.images_per_second:.1f}", f"images per second, batch size {best.batch}"))
    if report.timing_ratio:
        found.append((f"{report.timing_ratio.ratio:.3f}", f"time relative to {report.timing_ratio.other}"))
    if report.memory:
        found.append((f"{report.memory.peak_mb:.0f} MB", "peak memory beyond the runtime's"))
    if found:
        found.append((file_size(report.file_bytes), "file size"))
    return found


def _file_section(report: VerificationFigures) -> Section:
    """What the file is."""
    model, metadata = report.model, report.model.metadata
    entries = {k: v if isinstance(v, list) else [v] for k, v in model.arch.to_dict().items()}
    described = [f"{name} {' '.join(map(str, values))}" for name, values in entries.items() if values]
    title = FORMATS[model.format].title
    batch, side = "N" if model.batch is None else str(model.batch), model.input_size
    sizes_allowed = "any batch size" if model.batch is None else f"batch size {model.batch} only"
    random = "random weights: times are valid, predictions are not" if metadata.get("weights") == "random" else ""
    return Section(
        "File",
        (
            ("Model", str(metadata.get("name") or "unnamed"), f"{model.num_classes} classes, space {model.space.name}"),
            ("Arch", ", ".join(described[:2]), ""),
            *(("", ", ".join(described[i : i + 2]), "") for i in range(2, len(described), 2)),
            (
                "MACs",
                in_thousands(metadata.get("macs")),
                "per image, at the arch's resolution; tools that count FLOPs report twice as many",
            ),
            ("Parameters", in_thousands(metadata.get("params")), ""),
            ("Format", model.format, title if model.opset is None else f"{title}, opset {model.opset}"),
            (
                "Input",
                "1 x H x W x 3, uint8" if model.embedded else f"{batch} x 3 x {side} x {side}",
                "RGB images of any size; the preprocessing is in the file" if model.embedded else sizes_allowed,
            ),
            ("File size", file_size(report.file_bytes), ""),
            ("Weights", str(metadata.get("weights") or "unknown"), random),
            ("Calibration", _calibration(metadata.get("calibration")), "source of the batch-norm statistics"),
            _digest_row(model),
            ("SHA-256 of the weights", _short(metadata.get("weights_sha256")), "as recorded at export"),
            *([_stamp_row(report)] if model.format == "onnx" else []),
        ),
    )


def _digest_row(model: ExportedModel) -> Row:
    """The digest of an ONNX graph, or of another file."""
    if model.graph_sha256 is None:
        return "SHA-256 of the file", _short(model.file_sha256), "the JSON has the full digest"
    return "SHA-256 of the graph", _short(model.graph_sha256), "without metadata; the JSON has the full digest"


def _stamp_row(report: VerificationFigures) -> Row:
    """Whether the file contains a verification, and whether that describes the file as it is now."""
    stamp = report.stamp
    if stamp is None:
        return "Stamp", "none", "--stamp writes the results into the file"
    state = "matches this graph and these weights" if stamp.matches else "DOES NOT MATCH: the file has changed since"
    return "Stamp", f"verified {stamp.date[:10]}", state


def _parity_section(report: VerificationFigures) -> Section:
    """The file against its reference, or its optimised graphs against the unoptimised one."""
    rows: list[Row] = []
    if report.reference:
        weights = f", weights {report.reference.weights}" if report.reference.weights else ""
        rows.append(("Reference", f"{report.reference.name}{weights}", _weights_remark(report)))
    if report.parity is None:
        rows.append(("Error vs PyTorch", NOT_MEASURED, "pass --reference to compare with the exported network"))
    for parity in filter(None, (report.parity, report.consistency)):
        for level in parity.levels:
            ties = f", {level.ties} ties" if level.ties else ""
            agreement = f"top-1 agreement {100 * level.top1_agreement:.1f} %{ties}"
            rows.append((f"{_level(level.level)} vs {parity.reference}", f"{level.max_relative_error:.2e}", agreement))
        rows.append(_tolerance_row(parity, report.data.folder))
    by_level = ", by optimisation level" if report.model.format == "onnx" else ""
    return Section("Parity", tuple(rows), f"largest relative error of the logits{by_level}")


def _level(name: str) -> str:
    """An optimisation level of ONNX Runtime, or another runtime."""
    titles = {form.runtime: form.title for form in FORMATS.values()}
    return titles.get(name) or f"Level {name}"


def _tolerance_row(parity: Parity, folder: str | None) -> Row:
    """The criterion: relative error for float32, signal-to-noise ratio for integers."""
    images = f"{parity.images} " + ("synthetic images" if parity.synthetic else f"images of {folder}")
    if parity.tolerance is not None:
        return "Tolerance", f"{parity.tolerance:.0e}", images
    required = f"at least {INT8_LEAST_DB:g} dB required for int8"
    return "Signal-to-noise ratio", f"{parity.signal_to_noise_db:.1f} dB", f"{required}; {images}"


def _weights_remark(report: VerificationFigures) -> str:
    """Whether the reference has the weights that the file was exported from."""
    recorded = report.model.metadata.get("weights_sha256")
    if not recorded or not report.reference or not report.reference.weights_sha256:
        return "cannot be compared with the file's weights: a digest is missing"
    same = recorded == report.reference.weights_sha256
    return "the weights recorded in the file" if same else "NOT the weights recorded in the file"


def _graph_section(report: VerificationFigures) -> Section:
    """The graph after ONNX Runtime's optimisation."""
    health = report.graph_health
    if health is None:
        remark = "" if report.model.format == "onnx" else "ONNX only"
        return Section("Graph", (("Nodes", NOT_MEASURED, remark),))
    blocked = f"{health.blocked_convolutions} of {health.convolutions} convolutions"
    rows = (
        ("Nodes", str(health.nodes), f"{health.optimized_nodes} after optimisation"),
        ("Blocked layout", blocked, "run in ONNX Runtime's fastest kernels"),
        ("Fused nodes", str(health.fused_nodes), "each replaces several operators"),
        ("Reorder nodes", str(health.reorder_nodes), "convert memory layouts and compute nothing"),
        ("Leftover nodes", str(health.leftovers), "BatchNormalization, Cast, Dropout, Identity"),
        ("Resize nodes", str(health.resizes), ""),
        *_rule_rows(report),
    )
    plot = operator_plot(health.optimized_operators)
    return Section("Graph", rows, "node counts in the file and after optimisation for this CPU", plot)


def _rule_rows(report: VerificationFigures) -> list[Row]:
    """The rules for the optimised graph."""
    rules = report.graph_rules
    if rules is None:
        return [("Rules", NOT_MEASURED, "")]
    if rules.not_applicable:
        return [("Rules", "not applicable", rules.not_applicable)]
    held = f"{sum(rule.holds for rule in rules.rules)} of {len(rules.rules)} hold"
    broken = [("BROKEN", f"{rule.found}, expected {rule.wanted}", rule.name) for rule in rules.rules if not rule.holds]
    return [("Rules", held, "expected node counts, derived from the arch"), *broken]


def _environment_section(report: VerificationFigures) -> Section:
    """The machine and the versions."""
    here = report.environment
    versions = f"Python {here.python}, ONNX Runtime {here.onnxruntime}, onnx {here.onnx}, torch {here.torch}"
    rows = (
        *([("Runtime", here.runtime, "")] if here.runtime else []),
        ("CPU", here.cpu, f"{here.cores} physical cores, {here.system}"),
        ("Versions", versions, ""),
        ("Date", here.date, f"alphanet-zoo {here.alphanet_zoo}"),
    )
    return Section("Environment", rows)


def _short(digest: Any) -> str:
    """The start of a digest."""
    return f"{str(digest)[:16]}..." if digest else "unknown"


def _calibration(record: Any) -> str:
    """The source of the batch-norm statistics in words."""
    if isinstance(record, Mapping):
        batches = record.get("batches")
        return f"{record.get('images')} images in {batches} batch{'' if batches == 1 else 'es'}"
    return str(record) if record else "unknown"
