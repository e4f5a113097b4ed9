"""``alphanet verify-server`` against a real server on loopback, and its old spelling ``alphanet-verify --server``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alphanet_zoo.cli.main import main
from alphanet_zoo.cli.verify import main as old
from tests.export.exported import corrupted, tiny_onnx
from tests.kserve_server import KServeServer


def test_exit_codes_of_a_server_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, stored = tmp_path / "tiny.onnx", tmp_path / "server.json"
    path.write_bytes(tiny_onnx())
    check = ["verify-server", str(path), "--server"]
    with KServeServer(tiny_onnx(), "tiny") as server:
        assert main([*check, server.url, "--json", str(stored)]) == 0
        out = capsys.readouterr().out
        assert "verdict: holds" in out and "binary:" in out and f"wrote {stored}" in out
        assert json.loads(stored.read_text())["holds"] is True
        assert old([str(path), f"--server={server.url}"]) == 0
        out, err = capsys.readouterr()
        assert "verdict: holds" in out and err.count("\n") == 1 and err.endswith("use 'alphanet verify-server'\n")
        assert main([*check, server.url, "--server-model", "none"]) == 1
        assert "404" in capsys.readouterr().err
        url = server.url
    assert main([*check, url]) == 1
    assert "cannot reach" in capsys.readouterr().err
    with KServeServer(corrupted(tiny_onnx()), "tiny") as server:
        assert main([*check, server.url, "--json", str(stored)]) == 3
        out, err = capsys.readouterr()
        assert "verdict: broken" in out and err.count("\n") == 1 and "load this file into the server" in err
        assert json.loads(stored.read_text())["holds"] is False
    assert sorted(file.name for file in tmp_path.iterdir()) == ["server.json", "tiny.onnx"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--server", "localhost:8000"],
        ["--server-model", "tiny"],
        ["--server", "http://localhost:1", "--reference", "alphanet_a0"],
        ["--server", "http://localhost:1", "--threads", "1"],
        ["--server", "http://localhost:1", "--json", "server.txt"],
        ["--server", "http://localhost:1", "--json", "tiny.onnx/server.json"],
        ["--server", "http://localhost:1", "--data", "none"],
        ["--server", "http://localhost:1", "--limit", "3"],
    ],
    ids=" ".join,
)
def test_bad_words(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    assert main(["verify-server", "tiny.onnx", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("alphanet verify-server: error: ")
