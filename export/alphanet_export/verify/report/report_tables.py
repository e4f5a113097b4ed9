"""A verification report as tables: for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alphanet_export.formats import FORMATS
from alphanet_export.verify.measure.parity import INT8_LEAST_DB
from alphanet_export.verify.report.report_times import graph_section, latency_section, ratio_section, throughput_section
from alphanet_export.verify.report.tables import NOT_MEASURED, Section, cell, interval

if TYPE_CHECKING:
    from alphanet_export.metadata import ExportedModel
    from alphanet_export.verify.measure.parity import Parity
    from alphanet_export.verify.report.report import VerificationReport


def render_text(report: VerificationReport) -> str:
    """The report for the terminal."""
    tables = sections_of(report)
    label = max(len(row[0]) for table in tables for row in table.rows)
    value = max(len(row[1]) for table in tables for row in table.rows if row[2])
    lines = [report.model.path.name]
    for table in tables:
        lines += ["", table.title + (f" ({table.remark})" if table.remark else "")]
        lines += [f"  {a:<{label}}  {b:<{value}}  {c}".rstrip() for a, b, c in table.rows]
    return "\n".join([*lines, "", report.verdict]) + "\n"


def render_markdown(report: VerificationReport) -> str:
    """The report in Markdown."""
    lines = [f"# {cell(report.model.path.name)}", "", f"**{cell(report.verdict)}**"]
    for table in sections_of(report):
        lines += ["", f"## {cell(table.title)}", ""]
        lines += [f"{table.remark[:1].upper()}{table.remark[1:]}.", ""] if table.remark else []
        lines += ["| | | |", "|---|---|---|"]
        lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def sections_of(report: VerificationReport) -> tuple[Section, ...]:
    """The report as titled tables."""
    return (
        _file_section(report),
        _parity_section(report),
        _accuracy_section(report),
        latency_section(report),
        throughput_section(report),
        *([ratio_section(report.timing_ratio, report.max_ratio)] if report.timing_ratio else []),
        graph_section(report),
        _environment_section(report),
    )


def _file_section(report: VerificationReport) -> Section:
    """What the file is."""
    model, metadata = report.model, report.model.metadata
    macs, params, arch = metadata.get("macs"), metadata.get("params"), model.arch
    batch = "any" if model.batch is None else str(model.batch)
    title = FORMATS[model.format].title
    joined = {name: " ".join(map(str, getattr(arch, name))) for name in ("width", "depth", "kernel_size")}
    expand = " ".join(map(str, arch.expand_ratio))
    return Section(
        "file",
        "File",
        (
            ("Model", str(metadata.get("name") or "unnamed"), f"{model.num_classes} classes, space {model.space.name}"),
            ("Arch", f"resolution {arch.resolution}, width {joined['width']}", ""),
            ("", f"depth {joined['depth']}, kernel {joined['kernel_size']}, expand {expand}", ""),
            ("MACs", f"{macs / 1e6:.2f} M" if macs else "unknown", "at the arch's resolution"),
            ("Parameters", f"{params / 1e6:.2f} M" if params else "unknown", ""),
            ("Format", model.format, title if model.opset is None else f"{title}, opset {model.opset}"),
            ("Input", f"{batch} x 3 x {model.input_size} x {model.input_size}", f"batch {batch}"),
            ("Size", f"{report.file_bytes / 1e6:.2f} MB", ""),
            ("Weights", str(metadata.get("weights") or "unknown"), _weights_warning(metadata)),
            ("Calibration", _calibration(metadata.get("calibration")), "batch-norm statistics"),
            _digest_row(model),
            ("SHA-256 of the weights", _short(metadata.get("weights_sha256")), "as the export recorded it"),
            *([_stamp_row(report)] if model.format == "onnx" else []),
        ),
    )


def _digest_row(model: ExportedModel) -> tuple[str, str, str]:
    """The digest of an ONNX graph, or of another file."""
    if model.graph_sha256 is None:
        return "SHA-256 of the file", _short(model.file_sha256), "in full in the JSON"
    return "SHA-256 of the graph", _short(model.graph_sha256), "without metadata; in full in the JSON"


def _weights_warning(metadata: Mapping[str, Any]) -> str:
    """What made-up weights are good for."""
    return "made up: times mean something, classes nothing" if metadata.get("weights") == "random" else ""


def _stamp_row(report: VerificationReport) -> tuple[str, str, str]:
    """Whether the file carries a verification, and whether it is of this graph."""
    stamp = report.stamp
    if stamp is None:
        return "Stamp", "none", "--stamp writes this verification into the file"
    state = "of this very graph and weights" if stamp.matches else "NOT of this file: it has changed since"
    return "Stamp", f"verified {stamp.date[:10]}", state


def _parity_section(report: VerificationReport) -> Section:
    """The file against its reference, or against itself."""
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
                    f"{_level(level.level)} against {name}",
                    f"{level.max_relative_error:.2e}",
                    f"top-1 agreement {100 * level.top1_agreement:.1f} %{ties}",
                )
            )
        if parity:
            kind = "synthetic images" if parity.synthetic else f"images of {report.data.folder}"
            rows.append(_tolerance_row(parity, f"{parity.images} {kind}"))
    return Section("parity", "Parity", tuple(rows), "largest relative error of the logits")


def _level(name: str) -> str:
    """An optimisation level of ONNX Runtime, or another runtime."""
    titles = {form.runtime: form.title for form in FORMATS.values()}
    return titles.get(name) or f"Level {name}"


def _tolerance_row(parity: Parity, images: str) -> tuple[str, str, str]:
    """What decides: the error of float32, the signal to noise of integers."""
    if parity.tolerance is not None:
        return "Tolerance", f"{parity.tolerance:.0e}", images
    least = f"int8, which rounds: at least {INT8_LEAST_DB:g} dB; {images}"
    return "Signal to noise", f"{parity.signal_to_noise_db:.1f} dB", least


def _weights_remark(report: VerificationReport) -> str:
    """Whether the reference's weights are those that the file was made from."""
    ours, theirs = report.model.metadata.get("weights_sha256"), report.reference and report.reference.weights_sha256
    if not ours or not theirs:
        return "weights not comparable by digest"
    return "the weights recorded in the file" if ours == theirs else "NOT the weights recorded in the file"


def _accuracy_section(report: VerificationReport) -> Section:
    """Top-1 and top-5, and the test against the reference."""
    if report.accuracy is None:
        return Section(
            "accuracy",
            "Accuracy",
            (("Top-1", NOT_MEASURED, "give --data with labelled images, without --parity-only"),),
        )
    accuracy = report.accuracy
    floor = "" if report.min_top1 is None else f", floor {report.min_top1:g} %"
    rows = [("Top-1", f"{accuracy.top1:.2f} %", interval(accuracy.top1_interval, "%") + floor)]
    if accuracy.top5 is not None and accuracy.top5_interval is not None:
        rows.append(("Top-5", f"{accuracy.top5:.2f} %", interval(accuracy.top5_interval, "%")))
    rows.append(("Images", str(accuracy.images), f"{accuracy.classes} classes, folder {report.data.folder}"))
    if test := report.mcnemar:
        only = f"{test.only_file} right in the file alone, {test.only_reference} in PyTorch alone"
        rows.append(("Against PyTorch", f"{test.difference:+.2f} points", only))
        rows.append(("McNemar's exact test", f"p = {test.p_value:.3g}", _difference(test.p_value)))
    else:
        rows.append(("Against PyTorch", NOT_MEASURED, "give --reference to test the difference"))
    return Section("accuracy", "Accuracy", tuple(rows), "95 % Wilson intervals")


def _difference(p_value: float) -> str:
    """What McNemar's test says, in words."""
    return "no more than chance" if p_value >= 0.05 else "MORE THAN CHANCE: the file classifies differently"


def _environment_section(report: VerificationReport) -> Section:
    """Where and when."""
    here = report.environment
    rows = (("Runtime", here.runtime, ""),) if here.runtime else ()
    versions = f"Python {here.python}, ONNX Runtime {here.onnxruntime}, onnx {here.onnx}, torch {here.torch}"
    return Section(
        "environment",
        "Measured on",
        (
            *rows,
            ("CPU", here.cpu, f"{here.cores} physical cores, {here.system}"),
            ("Versions", versions, ""),
            ("Date", here.date, f"alphanet-zoo {here.alphanet_zoo}"),
        ),
    )


def _short(digest: Any) -> str:
    """The start of a digest."""
    return f"{str(digest)[:16]}..." if digest else "unknown"


def _calibration(record: Any) -> str:
    """Where batch-norm statistics come from, in words."""
    if isinstance(record, Mapping):
        return f"{record.get('images')} images in {record.get('batches')} batches"
    return str(record) if record else "unknown"
