"""The content of a verification report: its sections, key figures and verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphanet_export.formats import FORMATS
from alphanet_export.metadata import ExportedModel
from alphanet_export.verify.measure.ab import TimingRatio
from alphanet_export.verify.measure.energy import Energy
from alphanet_export.verify.measure.latency import Latency
from alphanet_export.verify.measure.parity import INT8_LEAST_DB, Parity
from alphanet_export.verify.report.figures import VerificationFigures
from alphanet_export.verify.report.plots import agreement_plot, latency_plot, operator_plot, ratio_plot, throughput_plot
from alphanet_export.verify.report.render import (
    NOT_MEASURED,
    Document,
    Row,
    Section,
    in_bytes,
    in_thousands,
    interval,
    threads_of,
)

QUIET = 0.8
"""CPU utilisation below which other programs disturbed the timing."""
SIGNIFICANT = 0.05
"""Significance level of McNemar's test."""


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
            _accuracy_section(report),
            _latency_section(report),
            _throughput_section(report),
            *([_ratio_section(report.timing_ratio, report.max_ratio)] if report.timing_ratio else []),
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
        found.append((f"{latency.median_ms:.2f} ms", f"median latency, {run}"))
    if report.throughput:
        best = max(report.throughput, key=lambda point: point.images_per_second)
        found.append((f"{best.images_per_second:.1f}", f"images per second, batch size {best.batch}"))
    if report.timing_ratio:
        found.append((f"{report.timing_ratio.ratio:.3f}", f"time relative to {report.timing_ratio.other}"))
    if report.memory:
        found.append((f"{report.memory.peak_mb:.0f} MB", "peak memory beyond the runtime's"))
    if found:
        found.append((in_bytes(report.file_bytes), "file size"))
    return found


def _file_section(report: VerificationFigures) -> Section:
    """What the file is."""
    model, metadata, arch = report.model, report.model.metadata, report.model.arch
    names = ("width", "depth", "kernel_size", "expand_ratio")
    sizes = {name: " ".join(map(str, getattr(arch, name))) for name in names}
    title = FORMATS[model.format].title
    batch, side = "N" if model.batch is None else str(model.batch), model.input_size
    sizes_allowed = "any batch size" if model.batch is None else f"batch size {model.batch} only"
    random = "random weights: times are valid, predictions are not" if metadata.get("weights") == "random" else ""
    return Section(
        "File",
        (
            ("Model", str(metadata.get("name") or "unnamed"), f"{model.num_classes} classes, space {model.space.name}"),
            ("Arch", f"resolution {arch.resolution}, width {sizes['width']}", ""),
            ("", f"depth {sizes['depth']}, kernel_size {sizes['kernel_size']}", ""),
            ("", f"expand_ratio {sizes['expand_ratio']}", ""),
            ("MACs", in_thousands(metadata.get("macs")), "per image, at the arch's resolution"),
            ("Parameters", in_thousands(metadata.get("params")), ""),
            ("Format", model.format, title if model.opset is None else f"{title}, opset {model.opset}"),
            (
                "Input",
                "1 x H x W x 3, uint8" if model.embedded else f"{batch} x 3 x {side} x {side}",
                "RGB images of any size; the preprocessing is in the file" if model.embedded else sizes_allowed,
            ),
            ("File size", in_bytes(report.file_bytes), ""),
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


def _accuracy_section(report: VerificationFigures) -> Section:
    """Top-1 and top-5, and the comparison with the reference on the same images."""
    accuracy = report.accuracy
    if accuracy is None:
        remark = "pass --data with labelled images, without --parity-only"
        return Section("Accuracy", (("Top-1", NOT_MEASURED, remark),))
    target = "" if report.min_top1 is None else f", target: at least {report.min_top1:g} %"
    rows = [("Top-1", f"{accuracy.top1:.2f} %", interval(accuracy.top1_interval, "%") + target)]
    if accuracy.top5 is not None and accuracy.top5_interval is not None:
        rows.append(("Top-5", f"{accuracy.top5:.2f} %", interval(accuracy.top5_interval, "%")))
    rows.append(("Images", str(accuracy.images), f"{accuracy.classes} classes, folder {report.data.folder}"))
    if accuracy.suspicion:
        rows.append(("Plausibility", "SUSPICIOUS", accuracy.suspicion))
    if test := report.mcnemar:
        only = f"correct in the file only: {test.only_file}, in PyTorch only: {test.only_reference}"
        differs = test.p_value < SIGNIFICANT
        result = "SIGNIFICANT DIFFERENCE between the file and PyTorch" if differs else "no significant difference"
        rows.append(("Difference to PyTorch", f"{test.difference:+.2f} points", only))
        rows.append(("McNemar's exact test", f"p = {test.p_value:.3g}", result))
    else:
        rows.append(("Difference to PyTorch", NOT_MEASURED, "pass --reference to compare on the same images"))
    plot = agreement_plot(report.mcnemar) if report.mcnemar else ""
    return Section("Accuracy", tuple(rows), "with 95 % Wilson confidence intervals", plot)


def _latency_section(report: VerificationFigures) -> Section:
    """Latency, start-up, memory and energy."""
    rows, runtime = _latency_rows(report.latency, report.max_latency_ms), report.environment.runtime or "ONNX Runtime"
    if start := report.startup:
        steps = f"import {start.import_ms:.0f}, load {start.load_ms:.0f}, first run {start.first_ms:.0f} ms"
        rows.append(("Cold start", f"{start.total_ms:.0f} ms", f"new process to first result: {steps}"))
    else:
        rows.append(("Cold start", NOT_MEASURED, ""))
    if memory := report.memory:
        rows.append(("Peak memory", f"{memory.peak_mb:.0f} MB", f"beyond the runtime's {memory.baseline_mb:.0f} MB"))
    else:
        rows.append(("Peak memory", NOT_MEASURED, ""))
    return Section(
        "Latency, memory and energy",
        (*rows, _energy_row(report.energy)),
        f"{runtime} on the CPU, with the 95 % bootstrap confidence interval of the median",
        latency_plot(report.latency) if report.latency else "",
    )


def _latency_rows(latency: Latency | None, target_ms: float | None) -> list[Row]:
    """Times of consecutive runs."""
    if latency is None:
        return [("Median latency", NOT_MEASURED, "")]
    target = "" if target_ms is None else f", target: at most {target_ms:g} ms"
    run = f"batch size {latency.batch}, {threads_of(latency.threads)}"
    return [
        ("Median latency", f"{latency.median_ms:.2f} ms", interval(latency.median_interval_ms, "ms") + target),
        ("90th, 99th percentile", f"{latency.p90_ms:.2f}, {latency.p99_ms:.2f} ms", f"{latency.repeats} runs"),
        ("Mean, minimum", f"{latency.mean_ms:.2f}, {latency.min_ms:.2f} ms", ""),
        ("Rate", f"{latency.images_per_second:.1f} images/s", run),
        *_share_rows(latency.cpu_share),
        ("Load time", f"{latency.load_ms:.0f} ms", "reading the file and optimising its graph"),
    ]


def _share_rows(cpu_share: float | None) -> list[Row]:
    """The CPU utilisation of the threads, and what it means; nothing if the runtime's idle threads sleep."""
    if cpu_share is None:
        return []
    share = "of the threads' time" if cpu_share >= QUIET else "OTHER PROGRAMS USED THE CPU: times are too long"
    return [("CPU utilisation", f"{100 * cpu_share:.0f} %", share)]


def _energy_row(energy: Energy | None) -> Row:
    """Energy per image."""
    if energy is None or energy.millijoules_per_image is None:
        return "Energy per image", NOT_MEASURED, (energy and energy.unavailable) or ""
    above = f"{energy.above_idle_millijoules_per_image:.1f} mJ above idle"
    power = f"{energy.watts:.1f} W, {energy.idle_watts:.1f} W idle, {energy.packages} processor packages"
    return "Energy per image", f"{energy.millijoules_per_image:.1f} mJ", f"{above}; {power}"


def _throughput_section(report: VerificationFigures) -> Section:
    """Images per second, by batch size and threads."""
    points = report.throughput
    if not points:
        return Section("Throughput", (("Images per second", NOT_MEASURED, ""),))
    rows = []
    for threads in sorted({point.threads for point in points}):
        rates = [point for point in points if point.threads == threads]
        best = max(rates, key=lambda point: point.images_per_second)
        values = ", ".join(f"{point.images_per_second:.1f}" for point in rates)
        batches = f"batch size{'s' * (len(rates) > 1)} " + ", ".join(str(point.batch) for point in rates)
        fastest = f"; fastest: {best.batch}" if len(rates) > 1 else ""
        rows.append((threads_of(threads), f"{values} images/s", batches + fastest))
    remark = "" if report.model.batch is None else f"the file accepts batch size {report.model.batch} only"
    return Section("Throughput", tuple(rows), remark, throughput_plot(points))


def _ratio_section(ratio: TimingRatio, target: float | None) -> Section:
    """The file's time relative to that of another file."""
    low, high = ratio.ratio_interval
    result = "this file is faster" if high < 1 else "this file is slower" if low > 1 else "no significant difference"
    goal = "" if target is None else f", target: at most {target:g}"
    medians = f"{ratio.median_ms:.2f} and {ratio.other_median_ms:.2f} ms"
    rounds = f"each file once per round in random order, batch size {ratio.batch}"
    return Section(
        f"Compared with {ratio.other}",
        (
            ("Ratio of medians", f"{ratio.ratio:.3f}", interval(ratio.ratio_interval, digits=3) + goal),
            ("Result", result, ""),
            ("Medians", medians, f"{ratio.clock}, {threads_of(ratio.threads)}"),
            ("Rounds", str(ratio.rounds), rounds),
        ),
        "below 1 this file is faster; with the 95 % bootstrap confidence interval over rounds",
        ratio_plot(ratio),
    )


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
        return f"{record.get('images')} images in {record.get('batches')} batches"
    return str(record) if record else "unknown"
