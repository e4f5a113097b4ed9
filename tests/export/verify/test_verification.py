from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from alphanet_export.build import Source
from alphanet_export.formats import FORMATS
from alphanet_export.freeze import freeze
from alphanet_export.metadata import open_exported
from alphanet_export.verify.measure.parity import measure_parity, synthetic_images
from alphanet_export.verify.measure.robustness import measure_robustness
from alphanet_export.verify.reference import assumed_metadata
from alphanet_export.verify.verification import Settings, verify_model
from alphanet_export.write import write_export
from alphanet_export.writers.to_openvino import write_openvino
from alphanet_export.writers.to_pt2 import write_program
from alphanet_zoo.cli.verify import main
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import spread
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net
from tests.export.exported import tiny_net, tiny_onnx, write_images

QUICK = ("onnx", "openvino", "pt2")
COMPILED = ("executorch", "aoti")
FAST = ("--seconds", "0.05", "--repeats", "5", "--threads", "1", "--starts", "1")
SETTINGS = Settings(seconds=0.02, repeats=3, threads=1, starts=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network in every format that is quick to write, its weights, and labelled images."""
    folder = tmp_path_factory.mktemp("formats")
    digest = save_net(tiny_net(), folder / "tiny.safetensors")
    paths = {name: FORMATS[name].path(folder / "tiny") for name in QUICK}
    write_export(freeze(tiny_net()), Source(tiny_net(), "tiny", "tiny.safetensors", digest), **paths)
    write_images(folder / "images")
    return folder


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The OpenVINO files and the weights, to change."""
    for path in folder.glob("tiny.*"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def correct_images(folder: Path) -> int:
    """Number of images that the PyTorch network classifies correctly."""
    net, correct = tiny_net(), 0
    preprocessing = open_exported(folder / "tiny.onnx").preprocessing
    with torch.inference_mode():
        for pixels, labels in evaluation_batches(FolderSource(folder / "images"), preprocessing, 16):
            correct += int((net(pixels).argmax(dim=1) == labels).sum())
    return correct


def verify_by_command(path: Path, folder: Path, target: Path) -> dict[str, Any]:
    """The JSON report that ``alphanet verify`` writes for a file."""
    argv = [path, "--reference", folder / "tiny.safetensors", "--data", folder / "images", "--json", target]
    assert main([*map(str, argv), "--report", str(target.with_suffix(".html")), *FAST]) == 0
    figures: dict[str, Any] = json.loads(target.read_text("utf-8"))
    return figures


def check_report(name: str, path: Path, folder: Path, target: Path) -> None:
    """Verifies a file with the command, and checks every figure that its format must have."""
    form, figures = FORMATS[name], verify_by_command(path, folder, target)
    assert figures["format"] == name and figures["environment"]["runtime"].startswith(f"{form.title} ")
    assert figures["passed"] is True and figures["reference"]["weights_sha256"] == figures["weights_sha256"]
    assert figures["parity"]["holds"] is True and 0 < figures["parity"]["max_relative_error"] < 1e-5
    assert figures["parity"]["images"] == figures["accuracy"]["images"] == 30
    assert figures["accuracy"]["top1"] == pytest.approx(100 * correct_images(folder) / 30)
    assert figures["mcnemar"]["p_value"] == 1.0
    assert 0 < figures["latency"]["median_ms"] <= figures["latency"]["p99_ms"]
    assert (figures["latency"]["threads"], figures["latency"]["batch"]) == (1, 1)
    assert figures["startup"]["total_ms"] > figures["startup"]["load_ms"] > 0
    assert figures["memory"]["baseline_mb"] > 0
    assert [point["batch"] for point in figures["throughput"]] == [1]
    is_onnx = name == "onnx"
    assert (figures["graph_sha256"] is not None) is is_onnx and (
        figures["graph_health"]["nodes"] is not None
    ) is is_onnx
    levels = [level["level"] for level in figures["parity"]["levels"]]
    assert levels == (["basic", "all"] if is_onnx else [form.runtime])
    page = target.with_suffix(".html").read_text("utf-8")
    assert form.title in page and path.name in page


def check_record(name: str, path: Path) -> None:
    """Checks the report that the export left beside a file."""
    form = FORMATS[name]
    record = json.loads(form.report_path(path).read_text("utf-8"))
    assert record["format"] == name and record["environment"]["runtime"].startswith(f"{form.title} ")
    assert record["file"]["sha256"] == sha256_of(path) and record["file"]["name"] == path.name
    assert record["parity"]["holds"] is True and record["parity"]["tolerance"] == 2e-5
    assert (record["parity"]["images"], record["parity"]["synthetic"]) == (8, True)
    assert record["latency"]["median_ms"] is None and record["accuracy"]["top1"] is None


@pytest.mark.parametrize("name", QUICK)
def test_a_file_is_verified_in_the_runtime_of_its_format(name: str, folder: Path, tmp_path: Path) -> None:
    path = FORMATS[name].path(folder / "tiny")
    check_record(name, path)
    check_report(name, path, folder, tmp_path / "report.json")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_file_is_verified_in_the_runtime_of_its_format(name: str, folder: Path, tmp_path: Path) -> None:
    path = FORMATS[name].path(tmp_path / "tiny")
    digest = sha256_of(folder / "tiny.safetensors")
    write_export(freeze(tiny_net()), Source(tiny_net(), "tiny", "tiny.safetensors", digest), **{name: path})
    check_record(name, path)
    check_report(name, path, folder, tmp_path / "report.json")
    path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(AlphaNetError, match="has changed since the export"):
        open_exported(path)


def test_corrupted_images_are_the_same_in_every_runtime(folder: Path) -> None:
    source = spread(FolderSource(folder / "images"), 10)
    found = []
    for name in QUICK:
        model = open_exported(FORMATS[name].path(folder / "tiny"))
        found.append(measure_robustness(model, source, torch.arange(10), threads=1))
    assert found[0] == found[1] == found[2] and len({each.top1 for each in found[0].corrupted}) > 1


def test_all_formats_carry_the_same_metadata(folder: Path) -> None:
    models = [open_exported(FORMATS[name].path(folder / "tiny")) for name in QUICK]
    assert models[0].metadata == models[1].metadata == models[2].metadata
    assert [model.format for model in models] == list(QUICK)
    assert {(model.input_size, model.batch, model.num_classes) for model in models} == {(12, 1, 10)}
    assert models[1].arch == ALPHANET_TINY.smallest and models[1].labels == tuple("0123456789")


def test_reports_of_one_stem_do_not_overwrite_each_other(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(copied / "tiny.xml"), *FAST]) == 0
    out = capsys.readouterr().out
    assert "wrote" in out and "tiny.xml.verify.json" in out and "NOT CHECKED: nothing was compared" in out
    assert json.loads((copied / "tiny.xml.verify.json").read_text())["format"] == "openvino"
    assert json.loads((copied / "tiny.verify.json").read_text())["format"] == "onnx"


def test_other_weights_break_parity(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_net(tiny_net(seed=1), copied / "other.safetensors")
    assert main([str(copied / "tiny.xml"), "--reference", str(copied / "other.safetensors"), *FAST]) == 3
    captured = capsys.readouterr()
    assert "does not compute what PyTorch computes" in captured.err and " in openvino," in captured.err
    assert "NOT the weights recorded in the file" in captured.out


@pytest.mark.parametrize("changed", ["tiny.xml", "tiny.bin"])
def test_a_file_that_changed_after_the_export_is_refused(
    changed: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((copied / changed).read_bytes())
    content[-1] ^= 1
    (copied / changed).write_bytes(content)
    assert main([str(copied / "tiny.xml")]) == 1
    err = capsys.readouterr().err
    assert f"{changed} has changed since the export" in err and "export it again" in err and err.count("\n") == 1


def test_a_missing_weight_file_is_refused(copied: Path) -> None:
    (copied / "tiny.bin").unlink()
    with pytest.raises(AlphaNetError, match=r"tiny\.bin is missing; copy it beside tiny\.xml"):
        open_exported(copied / "tiny.xml")


@pytest.mark.parametrize("text", ['"name": "other"', "{", "[]", '{"files": {}}'])
def test_a_sidecar_that_changed_is_refused(text: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar = copied / "tiny.xml.json"
    content = sidecar.read_text("utf-8")
    changed = content.replace('"name": "tiny"', text) if text.startswith('"') else text
    assert changed != content
    sidecar.write_text(changed, "utf-8")
    assert main([str(copied / "tiny.xml")]) == 1
    err = capsys.readouterr().err
    assert "tiny.xml.json" in err and "or delete tiny.xml.json to use the metadata inside the file" in err
    sidecar.unlink()
    assert open_exported(copied / "tiny.xml").metadata["name"] == "tiny"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[list[Path]]:
    """Files of the three formats without metadata."""
    frozen = freeze(tiny_net())
    paths = [tmp_path / f"bare{ending}" for ending in (".onnx", ".xml", ".pt2")]
    proto = onnx.load_model_from_string(tiny_onnx())
    del proto.metadata_props[:]
    onnx.save(proto, paths[0])
    write_openvino(frozen, paths[1])
    write_program(frozen, paths[2])
    (tmp_path / "prep.json").write_text(json.dumps(frozen.preprocessing.to_dict()))
    yield paths


def test_a_file_without_metadata_requires_a_reference_and_a_preprocessing(
    bare: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, preprocessing = bare[1], bare[1].parent / "prep.json"
    words = [str(path), "--reference", str(folder / "tiny.safetensors"), "--data", str(folder / "images"), *FAST]
    assert main(words) == 1
    assert "verify it with --reference NAME|PATH and --preprocessing FILE.json" in capsys.readouterr().err
    assert main([*words, "--preprocessing", str(preprocessing)]) == 0
    assert "PASSED: outputs match the PyTorch reference" in capsys.readouterr().out
    figures = json.loads((path.parent / "bare.xml.verify.json").read_text())
    assert figures["accuracy"]["top1"] == pytest.approx(100 * correct_images(folder) / 30)
    assert figures["arch"] == ALPHANET_TINY.smallest.to_dict() and figures["macs"] is None


def test_metadata_is_assumed_for_every_format(bare: list[Path]) -> None:
    assumed = assumed_metadata(tiny_net(), None, bare[0].parent / "prep.json")
    for path in bare:
        with pytest.raises(AlphaNetError, match="has no metadata of alphanet export"):
            open_exported(path)
        model = open_exported(path, assumed)
        assert (model.arch, model.input_size, model.num_classes) == (ALPHANET_TINY.smallest, 12, 10)
        assert measure_parity(path, tiny_net(), synthetic_images(2, 12)).holds


def test_assumed_metadata_that_does_not_fit_is_refused(bare: list[Path], tmp_path: Path) -> None:
    preprocessing = Preprocessing(14, 16, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(AlphaNetError, match="takes images of 12 pixels, and its preprocessing gives 14"):
        verify_model(bare[1], reference=tiny_net(), preprocessing=preprocessing, settings=SETTINGS)
    with pytest.raises(UsageError, match="pass --reference too"):
        verify_model(bare[1], preprocessing=preprocessing, settings=SETTINGS)
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10)).eval()
    save_net(supernet, tmp_path / "supernet.safetensors")
    with pytest.raises(UsageError, match="is a supernet, and the file does not contain its arch"):
        verify_model(bare[1], reference=str(tmp_path / "supernet.safetensors"), preprocessing=preprocessing)
    for content in ("{}", "[1]", '{"input_size": 12}', "{"):
        (tmp_path / "wrong.json").write_text(content)
        with pytest.raises(UsageError, match="pass a JSON file with input_size, resize_size, interpolation"):
            verify_model(bare[1], reference=tiny_net(), preprocessing=tmp_path / "wrong.json")


def test_two_formats_are_timed_in_turns(folder: Path) -> None:
    report = verify_model(folder / "tiny.xml", versus=folder / "tiny.onnx", settings=SETTINGS)
    assert report.timing_ratio is not None and report.timing_ratio.other == "tiny.onnx"
    assert report.timing_ratio.other_sha256 == sha256_of(folder / "tiny.onnx") and report.timing_ratio.ratio > 0


def test_without_verification_no_report_is_left(tmp_path: Path) -> None:
    write_export(freeze(tiny_net()), openvino=tmp_path / "net.xml", verify=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml", "net.xml.json"]
