"""The sections of a verification report on times, memory and energy."""

from __future__ import annotations

from alphanet_export.verify.measure.ab import TimingRatio
from alphanet_export.verify.measure.energy import Energy
from alphanet_export.verify.measure.latency import Latency
from alphanet_export.verify.report.figures import VerificationFigures
from alphanet_export.verify.report.plots import latency_plot, ratio_plot, throughput_plot
from alphanet_export.verify.report.render import NOT_MEASURED, Row, Section, interval, threads_of

QUIET = 0.8
"""CPU utilisation below which other programs disturbed the timing."""


def latency_section(report: VerificationFigures) -> Section:
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


def throughput_section(report: VerificationFigures) -> Section:
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


def ratio_section(ratio: TimingRatio, target: float | None) -> Section:
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
