"""The sections of a report on time, memory, energy and the graph that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphanet_export.verify.measure.ab import TimingRatio
from alphanet_export.verify.measure.energy import Energy
from alphanet_export.verify.measure.latency import Latency
from alphanet_export.verify.report.tables import NOT_MEASURED, Section, interval

if TYPE_CHECKING:
    from alphanet_export.verify.report.report import VerificationReport

QUIET = 0.8
"""Least share of the threads' time on a machine that was quiet enough to time on."""


def latency_section(report: VerificationReport) -> Section:
    """Time, memory, energy."""
    rows = _latency_rows(report.latency, report.max_latency_ms)
    if start := report.startup:
        steps = f"import {start.import_ms:.0f}, load {start.load_ms:.0f}, first run {start.first_ms:.0f} ms"
        rows.append(("Cold start", f"{start.total_ms:.0f} ms", f"a fresh process to its first result: {steps}"))
    else:
        rows.append(("Cold start", NOT_MEASURED, ""))
    if memory := report.memory:
        rows.append(
            ("Peak memory", f"{memory.peak_mb:.0f} MB", f"above the {memory.baseline_mb:.0f} MB of the runtime")
        )
    else:
        rows.append(("Peak memory", NOT_MEASURED, ""))
    rows += _energy_rows(report.energy)
    return Section(
        "latency",
        "Latency, memory, energy",
        tuple(rows),
        f"{report.environment.runtime or 'ONNX Runtime'}, CPU; 95 % bootstrap interval of the median",
    )


def _latency_rows(latency: Latency | None, target_ms: float | None) -> list[tuple[str, str, str]]:
    """Times of one batch after the other."""
    if latency is None:
        return [("Median", NOT_MEASURED, "")]
    target = "" if target_ms is None else f", target {target_ms:g} ms"
    rate = f"{latency.images_per_second:.1f} images/s"
    threads = f"{latency.threads} thread{'s' * (latency.threads > 1)}"
    return [
        ("Median", f"{latency.median_ms:.2f} ms", interval(latency.median_interval_ms, "ms") + target),
        ("90th, 99th percentile", f"{latency.p90_ms:.2f}, {latency.p99_ms:.2f} ms", f"{latency.repeats} runs"),
        ("Mean, fastest", f"{latency.mean_ms:.2f}, {latency.min_ms:.2f} ms", ""),
        ("Rate", rate, f"batch {latency.batch}, {threads}"),
        *_share_rows(latency.cpu_share),
        ("Loading", f"{latency.load_ms:.0f} ms", "once"),
    ]


def _energy_rows(energy: Energy | None) -> list[tuple[str, str, str]]:
    """Energy an image."""
    if energy is None:
        return [("Energy an image", NOT_MEASURED, "")]
    if energy.millijoules_per_image is None:
        return [("Energy an image", NOT_MEASURED, energy.unavailable or "")]
    above = f"{energy.above_idle_millijoules_per_image:.1f} mJ above idle; "
    power = f"{energy.watts:.1f} W, idle {energy.idle_watts:.1f} W, {energy.packages} packages"
    return [("Energy an image", f"{energy.millijoules_per_image:.1f} mJ", above + power)]


def throughput_section(report: VerificationReport) -> Section:
    """Images a second over batch sizes and threads."""
    points = report.throughput
    if not points:
        return Section("throughput", "Throughput", (("Images a second", NOT_MEASURED, ""),))
    rows = []
    for threads in sorted({point.threads for point in points}):
        rates = [point for point in points if point.threads == threads]
        best = max(rates, key=lambda point: point.images_per_second)
        values = ", ".join(f"{point.images_per_second:.1f}" for point in rates)
        batches = ", ".join(str(point.batch) for point in rates)
        remark = f"batch {batches}" + (f"; batch {best.batch} is fastest" if len(rates) > 1 else "")
        rows.append((f"{threads} thread{'s' * (threads > 1)}", f"{values} images/s", remark))
    remark = "" if report.model.batch is None else f"the file takes batches of {report.model.batch} alone"
    return Section("throughput", "Throughput", tuple(rows), remark)


def ratio_section(ratio: TimingRatio, target: float | None) -> Section:
    """The file's time against another's."""
    low, high = ratio.ratio_interval
    word = "faster" if high < 1 else "slower" if low > 1 else "neither faster nor slower by more than the interval"
    goal = "" if target is None else f", target {target:g}"
    threads = f"{ratio.threads} thread{'s' * (ratio.threads > 1)}"
    return Section(
        "ratio",
        f"Against {ratio.other}",
        (
            ("Ratio of medians", f"{ratio.ratio:.3f}", interval(ratio.ratio_interval, "", 3) + goal),
            ("The file is", word, ""),
            ("Medians", f"{ratio.median_ms:.2f} and {ratio.other_median_ms:.2f} ms", f"{ratio.clock}, {threads}"),
            ("Rounds", str(ratio.rounds), f"both once a round, in random order, batch {ratio.batch}"),
        ),
        "below 1 the file is faster; 95 % bootstrap interval over rounds",
    )


def graph_section(report: VerificationReport) -> Section:
    """What the runtime made of the graph."""
    health = report.graph_health
    if health is None:
        remark = "" if report.model.format == "onnx" else "ONNX only"
        return Section("graph", "Graph", (("Nodes", NOT_MEASURED, remark),))
    blocked = f"{health.blocked_convolutions} of {health.convolutions} convolutions"
    return Section(
        "graph",
        "Graph",
        (
            ("Nodes", str(health.nodes), f"{health.optimized_nodes} after optimisation"),
            ("Blocked layout", blocked, "the fast kernels"),
            ("Fused nodes", str(health.fused_nodes), "do more than one operator's work"),
            ("Reorder nodes", str(health.reorder_nodes), "convert layouts, compute nothing"),
            ("Leftover nodes", str(health.leftovers), "BatchNormalization, Cast, Dropout, Identity"),
            ("Resize nodes", str(health.resizes), ""),
            *_rule_rows(report),
        ),
        "in the file, and as optimised for this CPU",
    )


def _rule_rows(report: VerificationReport) -> list[tuple[str, str, str]]:
    """The rules for the graph that runs."""
    rules = report.graph_rules
    if rules is None:
        return [("Rules", NOT_MEASURED, "")]
    if rules.not_applicable:
        return [("Rules", "not applicable", rules.not_applicable)]
    kept = [("Rules", f"{sum(rule.holds for rule in rules.rules)} of {len(rules.rules)} hold", "derived from the arch")]
    broken = [rule for rule in rules.rules if not rule.holds]
    return kept + [("BROKEN", f"{rule.found}, expected {rule.wanted}", rule.name) for rule in broken]


def _share_rows(cpu_share: float | None) -> list[tuple[str, str, str]]:
    """The CPU share of the threads, and what it means; nothing if the runtime's idle threads sleep."""
    if cpu_share is None:
        return []
    busy = "of the threads' time" if cpu_share >= QUIET else "OTHER PROGRAMS HAD THE CORES: times are too long"
    return [("CPU share", f"{100 * cpu_share:.0f} %", busy)]
