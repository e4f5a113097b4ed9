"""Everything that is measured of an exported file, as one frozen value."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from alphanet_export.metadata import ExportedModel
from alphanet_export.verify.environment import Environment
from alphanet_export.verify.measure.ab import TimingRatio
from alphanet_export.verify.measure.accuracy import Accuracy
from alphanet_export.verify.measure.diagnostics import Diagnostics
from alphanet_export.verify.measure.energy import Energy
from alphanet_export.verify.measure.graph_health import GraphHealth
from alphanet_export.verify.measure.graph_rules import GraphRules
from alphanet_export.verify.measure.latency import Latency, Throughput
from alphanet_export.verify.measure.mcnemar import McNemar
from alphanet_export.verify.measure.parity import Parity
from alphanet_export.verify.measure.process import Memory, Startup
from alphanet_export.verify.measure.robustness import Robustness
from alphanet_export.verify.measure.weights import WeightsMatch
from alphanet_export.verify.report.stamp import Stamp, read_stamp
from alphanet_zoo.errors import AlphaNetError

SCHEMA = 2
"""Version of the JSON layout."""


@dataclass(frozen=True)
class Reference:
    """The PyTorch network that a file was compared with.

    Args:
        name: Name of the model, or path of its weights.
        weights: Source of the weights if ``name`` determines only the arch; else None.
        weights_sha256: SHA-256 of the weights as recorded at export: of their file, else of their tensors.
        calibration: Record of the source of its batch-norm statistics.
        recalibrated: Whether the statistics were computed again for the comparison, so that they may differ in the
            last bits.
    """

    name: str
    weights: str | None
    weights_sha256: str
    calibration: Any
    recalibrated: bool = False


@dataclass(frozen=True)
class Data:
    """The images of parity and accuracy.

    Args:
        folder: Name of the folder, without its parents; None if the images are synthetic.
        images: Number of images used.
        synthetic: Whether the images were generated.
    """

    folder: str | None
    images: int
    synthetic: bool


@dataclass(frozen=True)
class VerificationFigures:
    """An exported file and everything that was measured of it. A figure is None if it was not measured.

    Args:
        model: The file's metadata.
        file_bytes: Size of the file.
        data: The images of parity and accuracy.
        environment: Machine, versions and date.
        reference: The PyTorch network that parity compares with.
        weights: The tensors of the file compared with those of the reference, bit for bit; ONNX float32 only.
        parity: The file compared with the reference.
        consistency: Without a reference: the optimised graphs compared with the unoptimised one.
        accuracy: Accuracy on the labelled images.
        mcnemar: The file compared with the reference on the labelled images.
        diagnostics: Where the file errs on the labelled images.
        thumbnails: JPEG data URIs of the images in ``diagnostics.mistakes``, for the HTML page; empty if not requested.
        robustness: Accuracy on corrupted images.
        latency: Latency in the format's runtime on this CPU.
        throughput: Throughput by batch size and threads.
        startup: Start-up time of a new process.
        memory: Peak memory in a separate process.
        energy: Energy per image, if the machine has counters.
        graph_health: Node counts; ONNX only.
        graph_rules: Expected node counts; ONNX only.
        timing_ratio: The file's time relative to that of another file.
        min_top1: Lowest accepted top-1, in percent.
        max_latency_ms: Highest accepted median latency, in milliseconds.
        max_ratio: Highest accepted timing ratio.
        any_graph: Report broken graph rules without failing.

    Attributes:
        failures: The failed checks, the most serious first.
    """

    model: ExportedModel
    file_bytes: int
    data: Data
    environment: Environment
    reference: Reference | None = None
    weights: WeightsMatch | None = None
    parity: Parity | None = None
    consistency: Parity | None = None
    accuracy: Accuracy | None = None
    mcnemar: McNemar | None = None
    diagnostics: Diagnostics | None = None
    thumbnails: tuple[str, ...] = ()
    robustness: Robustness | None = None
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
        """Collects the failed checks, the most serious first: parity, accuracy, graph, times."""
        checks: list[Callable[[], object]] = [
            part.check for part in (self.stamp, self.parity, self.weights, self.consistency) if part
        ]
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

    def check(self) -> Self:
        """Returns the report if no check failed.

        Raises:
            ParityError: Parity does not hold.
            AccuracyError: Parity holds and top-1 is below ``min_top1``.
            TargetError: Parity and accuracy hold and ONNX Runtime fuses fewer operators than expected, or the median
                latency or the timing ratio is above its target.
        """
        if self.failures:
            raise self.failures[0]
        return self

    @property
    def stamp(self) -> Stamp | None:
        """What an ONNX file records of an earlier verification."""
        return read_stamp(self.model)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values. Every key is present; a figure that is missing or not finite is None."""
        model = self.model
        facts = {
            "schema": SCHEMA,
            "passed": not self.failures,
            "failures": [str(failure) for failure in self.failures],
            "format": model.format,
            "file": {"name": model.path.name, "bytes": self.file_bytes, "sha256": model.file_sha256},
            "graph_sha256": model.graph_sha256,
            "weights_sha256": model.metadata.get("weights_sha256"),
            "input": {
                "size": model.input_size,
                "batch": model.batch,
                "opset": model.opset,
                "embedded_preprocessing": model.embedded,
                "output": model.metadata.get("output", "logits"),
            },
            **{key: model.metadata.get(key) for key in _MODEL_KEYS},
            "floors": {name: getattr(self, name) for name in ("min_top1", "max_latency_ms", "max_ratio", "any_graph")},
            "throughput": self.throughput,
        }
        parts = {name: _part(getattr(self, name), kind) for name, kind in _PARTS.items()}
        result: dict[str, Any] = _plain({**facts, **parts})
        return result

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @property
    def verdict(self) -> str:
        """Whether the file passed, and which checks that is based on, in one line."""
        if self.failures:
            return "FAILED: " + "; ".join(str(failure) for failure in self.failures)
        passed = []
        if self.parity:
            passed.append("outputs match the PyTorch reference")
        if self.weights:
            passed.append("weights are those of the reference, bit for bit")
        if self.consistency:
            passed.append("ONNX Runtime's optimiser preserves the outputs (not compared with PyTorch: no --reference)")
        if self.accuracy and self.min_top1 is not None:
            passed.append(f"top-1 is at least {self.min_top1:g} %")
        if self.graph_rules and self.graph_rules.rules and self.graph_rules.holds:
            passed.append("ONNX Runtime fuses all expected operators")
        if self.latency and self.max_latency_ms is not None:
            passed.append(f"the median latency is at most {self.max_latency_ms:g} ms")
        if self.timing_ratio and self.max_ratio is not None:
            passed.append(f"its time is at most {self.max_ratio:g} times that of {self.timing_ratio.other}")
        return (
            f"PASSED: {', '.join(passed)}"
            if passed
            else "NOT CHECKED: nothing was compared with a reference or a target"
        )


_PARTS: dict[str, type[Any]] = {
    "reference": Reference,
    "data": Data,
    "weights": WeightsMatch,
    "parity": Parity,
    "consistency": Parity,
    "accuracy": Accuracy,
    "mcnemar": McNemar,
    "diagnostics": Diagnostics,
    "robustness": Robustness,
    "latency": Latency,
    "startup": Startup,
    "memory": Memory,
    "energy": Energy,
    "graph_health": GraphHealth,
    "graph_rules": GraphRules,
    "timing_ratio": TimingRatio,
    "stamp": Stamp,
    "environment": Environment,
}
_MODEL_KEYS = ("name", "arch", "space", "num_classes", "macs", "params", "preprocessing", "calibration", "tools")


def _part(value: Any, kind: type[Any]) -> dict[str, Any]:
    """A part of a report as a mapping; without that part all keys map to None."""
    names = [entry.name for entry in dataclasses.fields(kind)]
    part = {name: getattr(value, name) if value is not None else None for name in names}
    if kind in (Parity, GraphRules):
        part["holds"] = value.holds if value is not None else None
    return part


def _plain(value: Any) -> Any:
    """A value as JSON represents it: lists and mappings, and None for numbers that are not finite."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
