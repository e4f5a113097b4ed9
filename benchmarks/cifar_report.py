"""Tables and the training curve of `cifar_supernet.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.statistics import mean_interval
from alphanet_zoo.search.plot import accuracy_picture
from alphanet_zoo.train.runlog import read_log


def evaluation_table(rows: Sequence[dict[str, Any]]) -> str:
    """Test top-1 of each subnet, in Markdown."""
    lines = ["| subnet | MACs (M) | parameters (k) | test top-1 % | 95 % interval |", "|---|---|---|---|---|"]
    for row in rows:
        low, high = row["interval"]
        lines.append(
            f"| {row['name']} | {row['macs'] / 1e6:.2f} | {row['params'] / 1e3:.0f} | {row['top1']:.2f} "
            f"| {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], decimals: int) -> str:
    """A mean and the half width of its 95 % interval by Student's t; a single value has no interval."""
    if len(values) < 2:
        return f"{values[0]:.{decimals}f}"
    low, high = mean_interval(values)
    return f"{(low + high) / 2:.{decimals}f} ± {(high - low) / 2:.{decimals}f}"


def curve_piece(arguments: argparse.Namespace) -> int:
    """Plots the training log."""
    results = arguments.work / "results"
    lines = read_log(results / "log.jsonl")
    if not lines:
        raise UsageError(f"{results / 'log.jsonl'} is missing or empty; run train first")
    draw_curve(results / "curve.png", lines)
    print(results / "curve.png")
    return 0


def draw_curve(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Plots training and validation accuracy of the largest and the smallest subnet to a PNG file.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    with accuracy_picture(path) as axes:
        for kind, style in (
            ("subnets", {"alpha": 0.35, "linewidth": 1.0}),
            ("validation", {"marker": "o", "markersize": 4}),
        ):
            for name, colour in (("largest", "tab:blue"), ("smallest", "tab:orange")):
                points = [
                    (line["step"], 100 * line[kind][name]["accuracy"]) for line in lines if name in line.get(kind, {})
                ]
                if points:
                    label = f"{name}, {'training batches' if kind == 'subnets' else 'held-out images'}"
                    axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)
        axes.set(xlabel="step", title="CIFAR-10 (recompressed as JPEG)")
