"""What was found out about an exported file, as one frozen value that renders to JSON, text, Markdown and HTML."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alphanet_export.metadata import ExportedModel
from alphanet_export.verify.environment import Environment
from alphanet_export.verify.measure.ab import TimingRatio
from alphanet_export.verify.measure.accuracy import Accuracy
from alphanet_export.verify.measure.energy import Energy
from alphanet_export.verify.measure.graph_health import GraphHealth
from alphanet_export.verify.measure.graph_rules import GraphRules
from alphanet_export.verify.measure.latency import Latency, Throughput
from alphanet_export.verify.measure.mcnemar import McNemar
from alphanet_export.verify.measure.parity import Parity
from alphanet_export.verify.measure.process import Memory, Startup
from alphanet_export.verify.report.stamp import Stamp, read_stamp
from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.files import replacing

SCHEMA = 2
"""Version of the JSON's layout."""


@dataclass(frozen=True)
class Reference:
    """The PyTorch network that a file was compared with.

    Args:
        name: The model's name, or the path of its weights.
        weights: What its weights were made from, where a name says only the arch.
        weights_sha256: SHA-256 of the weights as an export records it: of their file, else of their tensors.
        calibration: Where its batch-norm statistics come from.
    """

    name: str
    weights: str | None
    weights_sha256: str
    calibration: Any


@dataclass(frozen=True)
class Data:
    """The images that figures were measured on.

    Args:
        folder: Name of the folder, without the folders above it; None where the images are synthetic.
        images: How many were used.
        synthetic: Whether they were made up.
    """

    folder: str | None
    images: int
    synthetic: bool


@dataclass(frozen=True)
class VerificationReport:
    """An exported file and all its figures; None if a figure was not measured.

    Args:
        model: What the file says of itself.
        file_bytes: Its size.
        data: The images of parity and accuracy.
        reference: The PyTorch network of parity.
        parity: The file against the reference.
        consistency: Without a reference, the optimised graphs against the unoptimised one.
        accuracy: On the labelled images.
        mcnemar: The file against the reference on the labelled images.
        latency: In the format's runtime on this CPU.
        throughput: Over batch sizes and threads.
        startup: Of a fresh process.
        memory: In a process of its own.
        energy: Where the machine counts it.
        graph_health: Counts of nodes; ONNX only.
        graph_rules: What those counts must be; ONNX only.
        timing_ratio: The file's time against that of another.
        environment: Where and when.
        min_top1: The floor of top-1, in percent.
        max_latency_ms: The target of the median latency.
        max_ratio: The target of the ratio.
        any_graph: Report broken graph rules without failing.
    """

    model: ExportedModel
    file_bytes: int
    data: Data
    environment: Environment
    reference: Reference | None = None
    parity: Parity | None = None
    consistency: Parity | None = None
    accuracy: Accuracy | None = None
    mcnemar: McNemar | None = None
    latency: Latency | None = None
    throughput: tuple[Throughput, ...] | None = None
    startup: Startup | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    graph_health: GraphHealth | None = None
    graph_rules: GraphRules | None = None
    timing_ratio: TimingRatio | None = None
    min_top1: float | None = None
    max_latency_ms: float | None = None
    max_ratio: float | None = None
    any_graph: bool = False
    failures: tuple[AlphaNetError, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Collects what fails, the gravest first: parity, then accuracy, then the graph, then times."""
        checks: list[Callable[[], object]] = [part.check for part in (self.parity, self.consistency) if part]
        if self.accuracy and self.min_top1 is not None:
            checks.append(partial(self.accuracy.check, self.min_top1))
        if self.graph_rules and not self.any_graph:
            checks.append(self.graph_rules.check)
        if self.latency and self.max_latency_ms is not None:
            checks.append(partial(self.latency.check, self.max_latency_ms))
        if self.timing_ratio and self.max_ratio is not None:
            checks.append(partial(self.timing_ratio.check, self.max_ratio))
        failures = []
        for check in checks:
            try:
                check()
            except AlphaNetError as error:
                failures.append(error)
        object.__setattr__(self, "failures", tuple(failures))

    def check(self) -> VerificationReport:
        """Returns itself.

        Raises:
            ParityError: Parity does not hold.
            AccuracyError: Parity holds, and top-1 is below its floor.
            TargetError: All else holds, and ONNX Runtime fuses less of the graph than it must, or the median latency
                or the ratio is above its target.
        """
        if self.failures:
            raise self.failures[0]
        return self

    @property
    def stamp(self) -> Stamp | None:
        """What an ONNX file records of an earlier verification."""
        return read_stamp(self.model)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values; a figure that is missing or not finite is None, every key is there."""
        model = self.model
        facts = {
            "schema": SCHEMA,
            "passed": not self.failures,
            "failures": [str(failure) for failure in self.failures],
            "format": model.format,
            "file": {"name": model.path.name, "bytes": self.file_bytes, "sha256": model.file_sha256},
            "graph_sha256": model.graph_sha256,
            "weights_sha256": model.metadata.get("weights_sha256"),
            "input": {"size": model.input_size, "batch": model.batch, "opset": model.opset},
            **{key: model.metadata.get(key) for key in _MODEL_KEYS},
            "floors": {name: getattr(self, name) for name in ("min_top1", "max_latency_ms", "max_ratio", "any_graph")},
            "throughput": self.throughput,
        }
        parts = {
            "reference": (self.reference, Reference),
            "data": (self.data, Data),
            "parity": (self.parity, Parity),
            "consistency": (self.consistency, Parity),
            "accuracy": (self.accuracy, Accuracy),
            "mcnemar": (self.mcnemar, McNemar),
            "latency": (self.latency, Latency),
            "startup": (self.startup, Startup),
            "memory": (self.memory, Memory),
            "energy": (self.energy, Energy),
            "graph_health": (self.graph_health, GraphHealth),
            "graph_rules": (self.graph_rules, GraphRules),
            "timing_ratio": (self.timing_ratio, TimingRatio),
            "stamp": (self.stamp, Stamp),
            "environment": (self.environment, Environment),
        }
        result: dict[str, Any] = _plain({**facts, **{name: _part(*part) for name, part in parts.items()}})
        return result

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """The report as a table for the terminal."""
        from alphanet_export.verify.report.report_tables import render_text

        return render_text(self)

    def to_markdown(self) -> str:
        """The report as Markdown."""
        from alphanet_export.verify.report.report_tables import render_markdown

        return render_markdown(self)

    def to_html(self) -> str:
        """The report as one HTML page that needs no other file."""
        from alphanet_export.verify.report.report_html import render

        return render(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the report, as HTML, Markdown or JSON by the ending of ``path``, wholly or not at all.

        Raises:
            ValueError: Another ending.
        """
        render = {".html": self.to_html, ".htm": self.to_html, ".md": self.to_markdown, ".json": self.to_json}
        ending = Path(path).suffix.lower()
        if ending not in render:
            raise ValueError(f"{os.fspath(path)!r} ends in {ending or 'nothing'!r}; end it in {', '.join(render)}")
        with replacing(path) as temporary:
            temporary.write_text(render[ending](), encoding="utf-8")

    @property
    def verdict(self) -> str:
        """One line that says whether the file passed, and what it failed or was not put to."""
        if self.failures:
            return "FAILED: " + "; ".join(str(failure) for failure in self.failures)
        held = []
        if self.parity:
            held.append("it computes what the PyTorch reference computes")
        if self.consistency:
            held.append("ONNX Runtime's optimiser keeps what it computes (no --reference, so no more is known)")
        if self.accuracy and self.min_top1 is not None:
            held.append(f"top-1 reaches {self.min_top1:g} %")
        if self.graph_rules and self.graph_rules.rules and self.graph_rules.holds:
            held.append("ONNX Runtime fuses all of its graph that it can")
        if self.latency and self.max_latency_ms is not None:
            held.append(f"the median latency is within {self.max_latency_ms:g} ms")
        if self.timing_ratio and self.max_ratio is not None:
            held.append(f"it takes at most {self.max_ratio:g} of the time of {self.timing_ratio.other}")
        return f"PASSED: {', '.join(held)}" if held else "Nothing was put to a test"


_MODEL_KEYS = ("name", "arch", "space", "num_classes", "macs", "params", "preprocessing", "calibration", "tools")


def _part(value: Any, kind: type[Any]) -> dict[str, Any]:
    """A part of a report as a mapping; all keys with None where there is no such part."""
    names = [entry.name for entry in dataclasses.fields(kind)]
    part = {name: getattr(value, name) if value is not None else None for name in names}
    if kind in (Parity, GraphRules):
        part["holds"] = value.holds if value is not None else None
    return part


def _plain(value: Any) -> Any:
    """A value as JSON has it: lists and mappings, and None for what is not finite."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
