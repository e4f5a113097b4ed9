"""``alphanet compare``, and its old spelling ``alphanet-verify --all``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from alphanet_zoo.cli.main import main
from alphanet_zoo.cli.verify import main as old

NOTE = "alphanet-verify: note: 'alphanet-verify --all' is deprecated and will be removed in the next release; use "


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("tiny.onnx",), "unrecognized arguments: tiny.onnx"),
        (("--stamp",), "unrecognized arguments: --stamp"),
        (("--runtimes", "tensorflow"), "pass some of pytorch,"),
        (("--runtimes", "pytorch,pytorch"), "each once"),
        (("--repeats", "1"), "at least 2"),
        (("-o", "table.pdf"), "ends in"),
        (("-o", "file/table.md"), "which is a file"),
        (("-o", "folder.md"), "is a folder"),
        (("--plot", "plot.svg"), "must be a file that ends in .png"),
        (("-o", "new.md", "--plot", "folder.md/../file/plot.png"), "which is a file"),
        (("--models", "resnet50"), "no model of the table is called 'resnet50'"),
    ],
)
def test_a_wrong_command_line_exits_2_and_writes_nothing(
    argv: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.md").mkdir()
    assert main(["compare", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("alphanet compare: error: ") and message in err and err.count("\n") == 1
    assert old(["--all", *argv]) == 2
    assert capsys.readouterr().err == f"{NOTE}'alphanet compare'\n{err}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.md"]


def test_without_timm_the_table_exits_6(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code = main(["compare", "--models", "fbnetv3_b"])
    assert code == 6 and "pip install 'alphanet-zoo[bench]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_compares_the_family_with_timm(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    argv = ("--models", "alphanet_a0,mobilenetv3_large_100", "--runtimes", "onnxruntime", "--threads", "1")
    code = main(["compare", *argv, "--seconds", "0.1", "--repeats", "5", "-o", str(tmp_path / "table.json")])
    captured = capsys.readouterr()
    assert code == 0 and "measured with random weights" in captured.out and "exporting alphanet_a0" in captured.err
    ours, theirs = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (round(ours["macs"] / 1e6, 2), ours["top1"]) == (203.39, 77.87)
    assert (round(theirs["macs"] / 1e6), theirs["params"], theirs["top1"]) == (217, 5_483_032, 75.786)
    assert theirs["published_weights"] == "mobilenetv3_large_100.ra_in1k" and "7479d451a6df" in theirs["source"]
    assert ours["figures"]["onnxruntime"]["median_ms"] > 0
