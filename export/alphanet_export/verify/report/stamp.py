"""The stamp: a verification recorded in the metadata of the verified file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from alphanet_export.metadata import ExportedModel
from alphanet_export.onnx_model import graph_sha256, load_proto
from alphanet_zoo.errors import AlphaNetError, ParityError, UsageError
from alphanet_zoo.files import replacing

KEY = "verification"
"""Key of the stamp in the metadata, without the prefix ``alphanet.``."""
STAMP_SCHEMA = 1
"""Version of the stamp's layout."""


@dataclass(frozen=True)
class Stamp:
    """The verification that a file contains.

    Args:
        matches: Whether the verification describes the file as it is now: its graph, weights, arch, preprocessing and
            labels.
        date: Date of the verification, ISO 8601.
        summary: The whole entry.
    """

    matches: bool
    date: str
    summary: Mapping[str, Any]

    def check(self) -> Stamp:
        """Returns itself.

        Raises:
            ParityError: The file has changed since it was verified.
        """
        if not self.matches:
            raise ParityError(
                f"the file records a verification of {self.date} that is not of this graph, weights, arch, "
                "preprocessing and labels: it has changed since; export it again"
            )
        return self


class Verified(Protocol):
    """The part of a report that a stamp is made from."""

    @property
    def model(self) -> ExportedModel:
        """The file."""

    def check(self) -> object:
        """Raises if a check failed."""

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values."""


def write_stamp(report: Verified) -> None:
    """Writes a report's summary into the metadata of its file. The graph does not change.

    The file is replaced in one step, so that an interrupted write leaves it as it was.

    Raises:
        UsageError: The file is not ONNX.
        AlphaNetError: The report has a failure (which is raised), or the file has changed since it was measured.
        OSError: The disk is full or not writable.
    """
    report.check()
    path = report.model.path
    if report.model.format != "onnx":
        raise UsageError(f"{path} is not an ONNX file; only ONNX files can be stamped")
    proto = load_proto(path)
    if graph_sha256(proto) != report.model.graph_sha256:
        raise AlphaNetError(f"{path} has changed since it was measured; verify it again")
    text = json.dumps(stamp_summary(report), ensure_ascii=False, sort_keys=True, allow_nan=False)
    entries = {entry.key: entry for entry in proto.metadata_props}
    entry = entries.get(f"alphanet.{KEY}") or proto.metadata_props.add(key=f"alphanet.{KEY}")
    entry.value = text
    assert graph_sha256(proto) == report.model.graph_sha256
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))


def stamp_summary(report: Verified) -> dict[str, Any]:
    """The part of a report that goes into its file: digests and figures, without paths and folder names."""
    figures = report.to_dict()
    kept: dict[str, Any] = {
        "schema": STAMP_SCHEMA,
        "graph_sha256": figures["graph_sha256"],
        **_identity(report.model),
        "reference_sha256": figures["reference"]["weights_sha256"],
        "images": {key: figures["data"][key] for key in ("images", "synthetic")},
        "environment": figures["environment"],
    }
    for part, keys in _FIGURES.items():
        kept[part] = {key: figures[part][key] for key in keys} if figures[part][keys[0]] is not None else None
    return kept


def read_stamp(model: ExportedModel) -> Stamp | None:
    """The stamp of a file, compared with the file as it is now; None if it has no stamp."""
    summary = model.metadata.get(KEY)
    if not isinstance(summary, Mapping):
        return None
    now = {"graph_sha256": model.graph_sha256, **_identity(model)}
    environment = summary.get("environment")
    date = environment.get("date") if isinstance(environment, Mapping) else None
    return Stamp(all(summary.get(key) == value for key, value in now.items()), str(date or "unknown"), summary)


def _identity(model: ExportedModel) -> dict[str, Any]:
    """The metadata that determines the meaning of a file's outputs."""
    labels = json.dumps(model.metadata.get("labels"), ensure_ascii=False).encode()
    kept = {key: model.metadata.get(key) for key in ("weights_sha256", "arch", "preprocessing")}
    return {**kept, "labels_sha256": hashlib.sha256(labels).hexdigest()}


_PARITY = ("max_relative_error", "top1_agreement", "images", "synthetic", "tolerance", "signal_to_noise_db")
_FIGURES = {
    "parity": _PARITY,
    "consistency": _PARITY,
    "accuracy": ("top1", "top1_interval", "top5", "images"),
    "mcnemar": ("p_value", "only_reference", "only_file"),
    "latency": ("median_ms", "median_interval_ms", "cpu_share", "threads", "batch"),
    "memory": ("peak_mb", "threads", "batch"),
    "graph_rules": ("holds",),
}
