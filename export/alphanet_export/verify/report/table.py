"""The comparison of several classifiers as one frozen value, which renders to JSON, text, Markdown and HTML."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from markupsafe import Markup

from alphanet_export.verify.environment import Environment
from alphanet_export.verify.measure.contenders import DISTILLED, MERGED
from alphanet_export.verify.report.render import (
    interval,
    markdown,
    markdown_table,
    render_html,
    text_table,
    threads_of,
    write_page,
)
from alphanet_export.verify.report.scatter import Point, scatter_plot, write_scatter
from alphanet_zoo.errors import UsageError
from alphanet_zoo.svg import printable

SCHEMA = 2
"""Version of the JSON layout."""

RUNTIME_TITLES = {
    "pytorch": "PyTorch",
    "pytorch-compiled": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "executorch": "ExecuTorch",
}


@dataclass(frozen=True)
class Figures:
    """What was measured of one model in one runtime.

    Args:
        median_ms: Median latency of one image.
        median_interval_ms: Its 95 % bootstrap confidence interval.
        ratio: Its ratio to the median latency of the anchor in the same rounds; None without an anchor.
        ratio_interval: The 95 % bootstrap confidence interval of ``ratio`` over rounds; None without an anchor.
        images_per_second: Throughput at the table's batch size.
    """

    median_ms: float
    median_interval_ms: tuple[float, float]
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    images_per_second: float


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Args:
        name: Its name.
        ours: Whether it belongs to the AlphaNet family.
        weights: Weights it was measured with: ``random`` or ``published``.
        size: Side of its input, in pixels.
        macs: Multiply-accumulates per image.
        params: Number of parameters, as exported.
        file_bytes: Size of its ONNX file.
        top1: Published ImageNet top-1 in percent, not measured here; None if there is none.
        source: Source of ``top1``, or None.
        published_weights: Name of the weights that ``top1`` was published for, or None.
        figures: Measurements by runtime.
    """

    name: str
    ours: bool
    weights: str
    size: int
    macs: int
    params: int
    file_bytes: int
    top1: float | None
    source: str | None
    published_weights: str | None
    figures: Mapping[str, Figures]


@dataclass(frozen=True)
class ComparisonTable:
    """A comparison of models, all measured in the same runtimes.

    Args:
        rows: The models.
        runtimes: The runtimes.
        threads: Threads within an operator.
        batch: Batch size of the throughput; ExecuTorch's files run its images one by one.
        rounds: Rounds of the latency; each runs every model once, in random order.
        clock: ``CPU time`` for one thread, else ``wall time``.
        anchor: Name of the model that ratios refer to, or None.
        environment: Machine, versions and date.
    """

    rows: tuple[Row, ...]
    runtimes: tuple[str, ...]
    threads: int
    batch: int
    rounds: int
    clock: str
    anchor: str | None
    environment: Environment

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), "notes": list(self.notes)}

    def to_json(self) -> str:
        """The table as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """The table for the terminal, in one part for the models and one per runtime."""
        lines = text_table(_MODEL_COLUMNS, [_words(_model_cells(row)) for row in self.rows])
        header = ["model", *self._runtime_columns("")]
        for runtime in self.runtimes:
            rows = [[row.name, *_words(_runtime_cells(row, runtime))] for row in self.rows]
            lines += ["", RUNTIME_TITLES.get(runtime, runtime), *text_table(header, rows)]
        for note in (*self.notes, self._lead):
            lines += ["", *wrap(printable(note), 100, break_on_hyphens=False)]
        return "\n".join(lines) + "\n"

    def to_markdown(self) -> str:
        """The table in Markdown."""
        table = markdown_table(self._header(), [_words(self._cells(row)) for row in self.rows])
        notes = [f"- {markdown(note)}" for note in self.notes]
        return "\n".join([f"# {self._title}", "", *table, "", *notes, "", markdown(self._lead)]) + "\n"

    def to_html(self) -> str:
        """The table and a scatter plot per runtime, as one HTML page that needs no other file."""
        remark = f"{self.clock}, {threads_of(self.threads)}, batch size 1; higher and further left is better"
        return render_html(
            "table.html",
            title=self._title,
            lead=self._lead,
            plots=[(title, remark, plot) for title, plot in map(self._plot, self.runtimes) if plot],
            header=self._header(),
            rows=[(row.ours, self._cells(row)) for row in self.rows],
            notes=self.notes,
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as HTML, Markdown or JSON, chosen by the ending of ``path``.

        Raises:
            ValueError: ``path`` has another ending.
        """
        write_page(path, html=self.to_html, markdown=self.to_markdown, json=self.to_json)

    def write_plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a scatter plot per runtime, with the Pareto front, to a PNG file.

        Raises:
            UsageError: No model has a published top-1.
            MissingDependencyError: matplotlib is not installed.
        """
        if not self._points(self.runtimes[0]):
            raise UsageError("none of the models has a published top-1, so there is nothing to plot; choose others")
        plots = [(_plot_title(runtime), self._points(runtime)) for runtime in self.runtimes]
        threads = f"{threads_of(self.threads)}, {self.clock}, batch size 1"
        write_scatter(path, plots, f"{self._lead}; {threads}. Latency measured with random weights, top-1 published.")

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on how to read the table, in full sentences."""
        random = [row.name for row in self.rows if row.weights == "random"]
        notes = []
        if random:
            models = "All models were" if len(random) == len(self.rows) else f"{', '.join(random)} were"
            notes.append(
                f"{models} measured with random weights. Latency does not depend on the weights; accuracy was not "
                "measured."
            )
        if sources := self._sources:
            notes.append(
                "Top-1 is published, not measured here: percent of the ImageNet validation images at the input size of "
                f"the table, from {sources}."
            )
        if missing := [row.name for row in self.rows if row.top1 is None]:
            notes.append(f"No published top-1 was found for {', '.join(missing)}.")
        if distilled := [row.name for row in self.rows if row.name in DISTILLED]:
            notes.append(f"The published weights of {', '.join(distilled)} were distilled from a larger network.")
        if merged := [row.name for row in self.rows if row.name in MERGED]:
            notes.append(
                f"The parallel branches of {', '.join(merged)} were merged before export; MACs and parameters are "
                "those of the merged network."
            )
        return (
            *notes,
            "MACs are those of convolutions, linear layers and attention; tools that count FLOPs report twice as many.",
            f"Latency is the median time of one image over {self.rounds} rounds, with its 95 % bootstrap confidence "
            f"interval ({self.clock}, {threads_of(self.threads)}). Every round runs each model once, in random order.",
            f"Throughput (images/s) was measured at batch size {self.batch}.",
            "All models were exported by the same exporters, with the same graph rewrites. Each runtime ran all of "
            "them in one process.",
        )

    @property
    def _sources(self) -> str:
        """The sources of the published top-1, each with its entries."""
        entries: dict[str, list[str]] = {}
        for row in self.rows:
            if row.source is not None and row.published_weights is not None:
                entries.setdefault(row.source, []).append(row.published_weights)
        return "; ".join(f"{source} ({', '.join(names)})" for source, names in entries.items())

    @property
    def _title(self) -> str:
        """The title."""
        others = any(not row.ours for row in self.rows)
        return "AlphaNet compared with other classifiers" if others else "The AlphaNet family"

    @property
    def _lead(self) -> str:
        """Machine, versions and date."""
        here = self.environment
        versions = f"ONNX Runtime {here.onnxruntime}, torch {here.torch}, Python {here.python}"
        return f"{here.cpu}, {here.cores} physical cores, {here.system}; {versions}; {here.date[:10]}"

    def _plot(self, runtime: str) -> tuple[str, Markup | None]:
        """Title and scatter plot of a runtime; None if fewer than two models have a published top-1."""
        title = _plot_title(runtime)
        points = self._points(runtime)
        return title, scatter_plot(title, points) if len(points) > 1 else None

    def _points(self, runtime: str) -> list[Point]:
        """The models that have a published top-1."""
        return [
            Point(row.name, row.ours, measured.median_ms, measured.median_interval_ms, row.top1)
            for row in self.rows
            if row.top1 is not None and (measured := row.figures[runtime])
        ]

    def _header(self) -> list[str]:
        """All column headings."""
        titles = [RUNTIME_TITLES.get(runtime, runtime) for runtime in self.runtimes]
        return [*_MODEL_COLUMNS, *(name for title in titles for name in self._runtime_columns(f"{title}, "))]

    def _runtime_columns(self, prefix: str) -> list[str]:
        """The headings of the columns of one runtime."""
        return [f"{prefix}ms", *([f"ratio to {self.anchor}"] if self.anchor else []), "images/s"]

    def _cells(self, row: Row) -> list[Cell]:
        """All cells of a row."""
        return [*_model_cells(row), *(cell for runtime in self.runtimes for cell in _runtime_cells(row, runtime))]


def _plot_title(runtime: str) -> str:
    """The title of the scatter plot of a runtime."""
    return f"Published top-1 vs latency in {RUNTIME_TITLES.get(runtime, runtime)}"


Cell = tuple[str, str]
"""A value, and its confidence interval or an empty string."""

_MODEL_COLUMNS = ("model", "top-1 %, published", "input", "MACs (M)", "params (M)", "ONNX (MB)")


def _model_cells(row: Row) -> list[Cell]:
    """The cells that do not depend on the runtime."""
    top1 = "-" if row.top1 is None else f"{row.top1:.2f}"
    sizes = (f"{row.macs / 1e6:.1f}", f"{row.params / 1e6:.2f}", f"{row.file_bytes / 1e6:.1f}")
    return [(word, "") for word in (row.name, top1, str(row.size), *sizes)]


def _runtime_cells(row: Row, runtime: str) -> list[Cell]:
    """The cells of one runtime."""
    measured = row.figures[runtime]
    cells = [(f"{measured.median_ms:.2f}", interval(measured.median_interval_ms))]
    if measured.ratio is not None and measured.ratio_interval is not None:
        cells.append((f"{measured.ratio:.3f}", interval(measured.ratio_interval, digits=3)))
    return [*cells, (f"{measured.images_per_second:.1f}", "")]


def _words(cells: list[Cell]) -> list[str]:
    """Cells as one text each."""
    return [f"{value} ({spread})" if spread else value for value, spread in cells]
