from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnx
import pytest

from alphanet_export.metadata import open_exported
from alphanet_export.verify.report.report import VerificationReport
from alphanet_export.verify.report.stamp import read_stamp, stamp_summary, write_stamp
from alphanet_export.verify.verification import Settings, stamp_report, verify_model
from alphanet_zoo.errors import AccuracyError, AlphaNetError
from tests.export.exported import corrupted, tiny_net, tiny_onnx, write_images


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> VerificationReport:
    """A file verified on images."""
    folder = tmp_path_factory.mktemp("secret-place")
    (folder / "tiny.onnx").write_bytes(tiny_onnx())
    data = write_images(folder / "secret-images", each=1)
    fast = Settings(seconds=0.05, repeats=2, threads=1, starts=1)
    return verify_model(folder / "tiny.onnx", reference=tiny_net(), data=data, settings=fast)


@pytest.fixture
def file(report: VerificationReport) -> Path:
    """That file, without a stamp."""
    report.model.path.write_bytes(tiny_onnx())
    return report.model.path


def test_a_stamp_is_written_last_and_changes_no_graph(report: VerificationReport, file: Path) -> None:
    before = open_exported(file)
    assert read_stamp(before) is None and "--stamp writes" in report.to_text()
    stamped = stamp_report(report)
    after = open_exported(file)
    assert after.graph_sha256 == before.graph_sha256 and after.file_sha256 != before.file_sha256
    assert stamped.model.file_sha256 == after.file_sha256  # The report is of the file as it is now.
    onnx.checker.check_model(onnx.load(file))
    assert {path.name for path in file.parent.iterdir()} == {"tiny.onnx", "secret-images"}  # No temporary file.
    stamp_report(stamped)
    entries = [entry.value for entry in onnx.load(file).metadata_props if entry.key == "alphanet.verification"]
    assert len(entries) == 1 and "secret" not in entries[0] and str(file.parent) not in entries[0]
    stamp = read_stamp(after)
    assert stamp is not None and stamp.matches and stamp.date == report.environment.date
    assert "matches this graph and these weights" in stamped.to_text()


def test_a_stamp_has_digests_and_figures(report: VerificationReport) -> None:
    summary = stamp_summary(report)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["graph_sha256"] == report.model.graph_sha256
    assert summary["images"] == {"images": 10, "synthetic": False}
    assert 0 < summary["parity"]["max_relative_error"] < 2e-5 and summary["latency"]["threads"] == 1
    assert summary["accuracy"]["images"] == 10 and summary["mcnemar"]["p_value"] == 1.0
    assert summary["consistency"] is None and summary["graph_rules"] is not None
    assert stamp_summary(dataclasses.replace(report, latency=None))["latency"] is None


def test_a_stamp_of_another_graph_or_meaning_does_not_match(report: VerificationReport, file: Path) -> None:
    stamp_report(report)
    sound = file.read_bytes()
    file.write_bytes(corrupted(sound))
    stale = dataclasses.replace(report, model=open_exported(file))
    assert stale.stamp is not None and not stale.stamp.matches
    assert "DOES NOT MATCH" in stale.to_text() and stale.to_dict()["stamp"]["matches"] is False
    proto = onnx.load_model_from_string(sound)
    for entry in proto.metadata_props:
        if entry.key == "alphanet.labels":
            entry.value = json.dumps(json.loads(entry.value)[::-1])
    file.write_bytes(proto.SerializeToString())
    relabelled = read_stamp(open_exported(file))
    assert relabelled is not None and not relabelled.matches


def test_what_failed_or_changed_is_not_stamped(report: VerificationReport, file: Path) -> None:
    file.write_bytes(corrupted(tiny_onnx()))
    before = file.read_bytes()
    with pytest.raises(AccuracyError):
        write_stamp(dataclasses.replace(report, min_top1=100.0))
    with pytest.raises(AlphaNetError, match="has changed since it was measured"):
        write_stamp(report)
    assert file.read_bytes() == before
