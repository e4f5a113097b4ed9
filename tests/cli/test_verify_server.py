"""``alphanet verify-server`` against a real server on loopback, and its old spelling ``alphanet-verify --server``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alphanet_export.freeze import freeze
from alphanet_export.write import write_export
from alphanet_zoo.cli.main import main
from alphanet_zoo.cli.verify import main as old
from tests.export.exported import corrupted, tiny_net, tiny_onnx
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


def test_a_file_with_its_preprocessing_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    write_export(freeze(tiny_net()), onnx=tmp_path / "net.onnx", embed_preprocessing=True, verify=False)
    script = (
        "import sys\nfrom alphanet_zoo.cli.main import main\n"
        "code = main(['verify-server', 'net.onnx', '--server', 'http://localhost:1'])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.endswith("pass a file that was exported without --embed-preprocessing\n")


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
