"""``alphanet export --web`` and ``--model-repository``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alphanet_export.writers.ort_web import ORT_WEB_FILES
from alphanet_zoo.cli.export import main
from alphanet_zoo.cli.export_options import make_parser, wants_bundle
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An arch, a supernet that contains it, and a folder laid out as the npm package."""
    root = tmp_path_factory.mktemp("inputs")
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    supernet.calibration = "checkpoint"
    save_net(supernet, root / "supernet.safetensors")
    (root / "small.json").write_text(json.dumps(ALPHANET_TINY.smallest.to_dict()))
    (root / "ort" / "dist").mkdir(parents=True)
    for name in ORT_WEB_FILES:
        (root / "ort" / "dist" / name).write_text(name)
    (root / "ort" / "package.json").write_text('{"name": "onnxruntime-web", "version": "1.2.3"}')
    return root


@pytest.fixture
def words(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What to export, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return ["--arch", str(inputs / "small.json"), "--supernet", str(inputs / "supernet.safetensors")]


def test_folders_alone_leave_no_file_here(
    words: list[str], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--web", "page", "--ort-web", str(inputs / "ort"), "--model-repository", "models"]
    assert main([*words, *folders, "--dynamic-batch", "--max-batch", "4"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "page"]
    out = capsys.readouterr().out
    assert "wrote:     page (" in out and "wrote:     models/small (" in out and out.count("wrote:") == 2
    assert "parity:    largest relative error" in out
    assert json.loads((tmp_path / "page" / "model.json").read_text())["name"] == "small"
    assert "max_batch_size: 4\n" in (tmp_path / "models" / "small" / "config.pbtxt").read_text()
    served = (tmp_path / "models" / "small" / "1" / "model.onnx").read_bytes()
    assert (tmp_path / "page" / "model.onnx").read_bytes() == served


def test_with_o_the_file_stays_too(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--model-repository", "models", "-o", "net.onnx", "--skip-verify"]) == 0
    served = tmp_path / "models" / "small" / "1" / "model.onnx"
    assert served.read_bytes() == (tmp_path / "net.onnx").read_bytes()
    assert capsys.readouterr().out.count("wrote:") == 2


BUNDLE = {"README.md", "labels.txt", "predict.py", "preprocessing.json"}


def test_an_output_folder_explains_itself(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-o", "new/", "--skip-verify"]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {*BUNDLE, "small.onnx"}
    assert capsys.readouterr().out.count("wrote:") == 5
    (tmp_path / "new" / "labels.txt").write_text("stale")
    assert main([*words, "-o", "new", "--skip-verify"]) == 0, "a bundle replaces an earlier one"
    assert (tmp_path / "new" / "labels.txt").read_text().startswith("0\n1\n")
    assert main([*words, "-o", "one/file.onnx", "--bundle", "--skip-verify"]) == 0
    assert {path.name for path in (tmp_path / "one").iterdir()} == {*BUNDLE, "file.onnx"}
    assert "file.onnx" in (tmp_path / "one" / "predict.py").read_text()


def test_by_default_only_a_folder_gets_the_bundle(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for extra, expected in (
        (["-o", "new/"], True), (["-o", "old"], True), (["-o", "."], True), (["-o", "x.onnx"], False), ([], False),
        (["-o", "new/", "--no-bundle"], False), (["--bundle"], True), (["-o", "x.onnx", "--bundle"], True),
    ):  # fmt: skip
        assert wants_bundle(make_parser().parse([*words, *extra])) is expected, extra


def test_a_readme_of_somebody_else_is_kept(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert main([*words, "-o", "."]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "-o . contains README.md, which alphanet export did not write" in err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_bad_words(
    words: list[str], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        (["--ort-web", "ort"], 2, "--ort-web requires --web"),
        (["--web", "page", "--ort-web", "none"], 2, "node_modules/onnxruntime-web"),
        (["--web", ""], 2, "--web is empty"),
        (["--model-repository", "models", "--bundle"], 2, "--bundle requires a file; pass -o or --format"),
        (["--web", str(inputs / "small.json" / "page")], 2, "small.json, which is a file"),
        (["--model-repository", str(inputs / "small.json")], 2, "small.json is not a folder"),
        (["--model-repository", "models", "--format", "pt2"], 2, "add onnx to --format"),
        (["--model-repository", "models", "--max-batch", "4"], 2, "--dynamic-batch"),
        (["--web", "page"], 6, "onnxruntime-web 1.30.0 with --ort-web"),
    ]
    monkeypatch.setenv("PATH", str(tmp_path))
    for extra, code, told in cases:
        assert main([*words, *extra]) == code, extra
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and told in err, (extra, err)
    assert not list(tmp_path.iterdir())
