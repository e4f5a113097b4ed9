"""``alphanet convert`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alphanet_zoo.cli.convert import main
from alphanet_zoo.files import sha256_of
from alphanet_zoo.zoo.files import load_net


def test_the_command_writes_a_supernet(upstream_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "made" / "supernet.safetensors"
    command = [sys.executable, "-m", "alphanet_zoo.cli.convert", str(upstream_checkpoint), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    net = load_net(output)
    assert net.supernet and net.calibration == "checkpoint"
    parameters = sum(parameter.numel() for parameter in net.parameters())
    assert f"{len(net.state_dict())} tensors, {parameters:,} parameters, 1000 classes" in done.stdout
    assert sha256_of(output) in done.stdout
    assert [path.name for path in output.parent.iterdir()] == ["supernet.safetensors"]


@pytest.mark.parametrize("arguments", [["--help"], ["nowhere.pth.tar", "-o", "out.safetensors"]])
def test_help_and_bad_usage_load_no_torch(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom alphanet_zoo.cli.convert import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as end:\n    code = end.code\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == (0 if arguments == ["--help"] else 2), done.stderr


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and the one line of error."""
    code = main(arguments)
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1 and streams.err.startswith("alphanet-convert: error: ")
    return code, streams.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "required: CHECKPOINT, -o/--output"),
        (["{file}"], "required: -o/--output"),
        (["nowhere.pth.tar", "-o", "{new}"], "'nowhere.pth.tar' does not exist"),
        (["{folder}", "-o", "{new}"], "is a folder"),
        (["{ours}", "-o", "{new}"], "is already in the format of this package"),
        (["{file}", "-o", "{folder}"], "ends in .safetensors"),
        (["{file}", "-o", "out.pth"], "ends in .safetensors"),
        (["{file}", "-o", ""], "ends in .safetensors"),
        (["{file}", "-o", "{new}", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_wrong_command_lines(arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("file", "ours.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    places = {
        "ours": tmp_path / "ours.safetensors",
        "file": tmp_path / "file",
        "folder": tmp_path,
        "new": tmp_path / "new.safetensors",
    }
    code, line = refused([argument.format(**places) for argument in arguments], capsys)
    assert code == 2 and told in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "ours.safetensors"]


def test_an_unreadable_checkpoint_leaves_the_output_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.pth.tar").write_bytes(b"\x80\x02}q\x00")
    (tmp_path / "out.safetensors").write_bytes(b"as it was")
    code, line = refused([str(tmp_path / "bad.pth.tar"), "-o", str(tmp_path / "out.safetensors")], capsys)
    assert code == 1 and "bad.pth.tar is not a readable checkpoint" in line
    assert (tmp_path / "out.safetensors").read_bytes() == b"as it was"
