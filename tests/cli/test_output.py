"""Results are written before anything is printed, and what is printed changes no exit code and no file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from alphanet_zoo.cli.command import say
from alphanet_zoo.cli.main import main
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net
from tests.export.exported import tiny_onnx, write_images

ALPHANET = f"{sys.executable} -W ignore -m alphanet_zoo"
VERIFY = f"{ALPHANET} verify tiny.onnx --seconds 0.05 --repeats 2 --starts 1 --any-graph --threads 1"
EXPORT = f"{ALPHANET} export --arch arch.json --supernet super.safetensors --skip-verify"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model, a supernet, an arch and images."""
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    supernet.calibration = "checkpoint"
    save_net(supernet, tmp_path / "super.safetensors")
    (tmp_path / "arch.json").write_text(json.dumps(ALPHANET_TINY.smallest.to_dict()))
    write_images(tmp_path / "images", each=2)
    return tmp_path


def shell(line: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash in ``place``."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=place,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        encoding="utf-8",
    )


WORK = """
import os, sys
from alphanet_zoo.cli.command import CommandParser, note, run_command, say
from alphanet_zoo.errors import AccuracyError
from alphanet_zoo.files import replacing

def work(arguments):
    with open("plain", "w") as file, replacing(arguments.name) as temporary:
        file.write("result")
        temporary.write_text("result")
        file.flush()
        try:
            os.write(1, b"noise of a library")
        except OSError:
            pass
    note("work", "note: it is written")
    say(f"wrote {arguments.name}")
    say("line " * 20000)
    if arguments.debug:
        raise AccuracyError("accuracy is below its floor")

parser = CommandParser("work", "Writes a file.")
parser.add_argument("name")
sys.exit(run_command(parser, work))
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a command that writes two files, prints, and with ``--debug`` fails with exit code 4."""
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


@pytest.mark.parametrize("flags", ["", "--debug"])
@pytest.mark.parametrize("reader", ["", "| true", "| head -c 9", ">&-", ">&- 2>&-", "2>&-", "> /dev/full"])
def test_a_reader_that_stops_changes_no_exit_code_and_no_file(reader: str, flags: str, work: Path) -> None:
    done = shell(f"{{ {sys.executable} work.py result {flags}; echo $? > code; }} {reader}", work)
    assert (work / "code").read_text() == ("4\n" if flags else "0\n")
    assert (work / "result").read_text() == (work / "plain").read_text() == "result"
    assert sorted(path.name for path in work.iterdir()) == ["code", "plain", "result", "work.py"]
    assert "BrokenPipe" not in done.stderr and "Exception ignored" not in done.stderr
    if "2>&-" not in reader:
        lines = done.stderr.splitlines()
        assert lines[0] == "work: note: it is written"
        assert (lines[-1] == "work: error: accuracy is below its floor") == bool(flags)
        assert ("work: warning: cannot write to standard output: No space left on device" in lines) == (
            "full" in reader
        )


def test_a_report_is_written_even_if_nobody_reads_it(place: Path) -> None:
    done = shell(f"{{ {VERIFY} --report report.html --max-latency-ms 1e-6; echo $? > code; }} | true", place)
    errors = [line for line in done.stderr.splitlines() if ": measuring " not in line]
    assert (place / "code").read_text() == "5\n" and len(errors) == 1
    assert json.loads((place / "tiny.verify.json").read_text())["passed"] is False
    assert (place / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("what", ["recipes", "train digits --print-config", "--help", "export --help"])
def test_help_and_lists_stop_quietly_with_their_reader(what: str, tmp_path: Path) -> None:
    done = shell(f"{{ {ALPHANET} {what}; echo $? > code; }} | true", tmp_path)
    assert ((tmp_path / "code").read_text(), done.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    "what", ["recipes", "recipes digits", "train digits --print-config", "--help", "--version", "export --help"]
)
def test_a_result_that_is_printed_must_arrive(what: str, tmp_path: Path) -> None:
    done = shell(f"{ALPHANET} {what} > /dev/full", tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "error: cannot write to standard output: No space left on device" in done.stderr


def test_a_terminal_without_the_characters_changes_nothing(place: Path) -> None:
    (place / "été").mkdir()
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = shell(f"{EXPORT} -o été/net.onnx", place, **ascii_only)
    assert done.returncode == 0 and r"\xe9t\xe9/net.onnx" in done.stdout, done.stderr
    assert [path.name for path in (place / "été").iterdir()] == ["net.onnx"]
    done = shell(f"{ALPHANET} verify été/net.onnx --json été/r.txt", place, **ascii_only)
    assert done.returncode == 2 and r"'\xe9t\xe9/r.txt' must end in .json" in done.stderr


def test_a_name_that_is_not_utf8_is_printed_as_escapes(work: Path) -> None:
    done = shell(f"{sys.executable} work.py $'\\xff.onnx'", work)
    assert done.returncode == 0 and "wrote \\udcff.onnx\n" in done.stdout, done
    assert (work / os.fsdecode(b"\xff.onnx")).read_text() == "result"


def test_say_needs_no_stream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo")
    assert capsys.readouterr().out == "one\ntwo\n"
    monkeypatch.setattr(sys, "stdout", None)
    say("nobody reads this", required=True)
    with open(os.devnull, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
    say("nor this")


SEARCH = ["search", "--supernet", "super.safetensors", "--data", "images", "--calib-data", "images"]
SUBNET = ["export", "--arch", "arch.json", "--supernet", "super.safetensors"]
MODEL = ["verify", "tiny.onnx"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*SEARCH, "-o", "folder.json"], "-o: folder.json is a folder"),
        ([*SEARCH, "-o", "f.json", "--best", "images"], "--best: images is a folder"),
        ([*SEARCH, "-o", "f.json", "--plot", "images"], "--plot: images is a folder"),
        ([*SEARCH, "-o", "f.json", "--best", "/dev/null"], "--best: /dev/null is a device"),
        ([*SEARCH, "-o", "f.json", "--best", "pipe"], "--best: pipe is a device, pipe or socket"),
        ([*SEARCH, "-o", "f.json", "--best", "link"], "--best: link is a device"),
        ([*SEARCH, "-o", "f.json", "--best", "./f.json"], "-o and --best both name f.json"),
        ([*SEARCH, "-o", "f.json", "--best", "arch.json/best"], "which is a file"),
        ([*SEARCH, "-o", "f.json", "--best", "b" * 256], "longer than 255 bytes"),
        ([*SUBNET, "-o", "pipe.onnx"], "-o: pipe.onnx is a device, pipe or socket"),
        ([*SUBNET, "--format", "openvino", "-o", "x.xml"], "-o: x.bin is a folder"),
        ([*SUBNET, "--web", "pipe"], "--web: pipe is not a folder"),
        ([*SUBNET, "--model-repository", "arch.json/x"], "which is a file"),
        ([*MODEL, "--report", "folder.json"], "--report: folder.json is a folder"),
        ([*MODEL, "--json", "pipe.json"], "--json: pipe.json is a device"),
        (["convert", "arch.json", "-o", "folder.safetensors"], "-o: folder.safetensors is a folder"),
        (["export-supernet", "images", "-o", "folder.safetensors"], "-o: folder.safetensors is a folder"),
        (["compare", "-o", "pipe.json"], "--output: pipe.json is a device"),
    ],
)
def test_places_are_checked_before_the_work(
    argv: list[str],
    message: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    for name in ("folder.json", "folder.safetensors", "x.bin"):
        (place / name).mkdir()
    for name in ("pipe", "pipe.onnx", "pipe.json"):
        os.mkfifo(place / name)
    (place / "link").symlink_to("/dev/null")
    before = sorted(place.rglob("*"))
    for module in ("alphanet_export.build", "alphanet_export.verify.verification", "alphanet_zoo.zoo.convert"):
        monkeypatch.setitem(sys.modules, module, None)  # The work cannot begin: importing these fails with exit code 1.
    if argv[0] == "verify":  # It takes the default place of its report from there.
        monkeypatch.delitem(sys.modules, "alphanet_export.verify.verification")
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert sorted(place.rglob("*")) == before and stat.S_ISFIFO((place / "pipe").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_plot_without_matplotlib_is_refused_before_the_search(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*SEARCH, "-o", "f.json", "--plot", "front.png"]) == 6
    assert "pip install 'alphanet-zoo[demo]'" in capsys.readouterr().err and not (place / "f.json").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_named_by_the_place_asked_for(place: Path) -> None:
    (place / "small").mkdir()
    mount = "mount -t tmpfs -o size=64k tmpfs small"
    if shell(f"unshare -m bash -c '{mount}'", place).returncode:
        pytest.skip("mounting is not permitted here")
    (place / "save.py").write_text(
        "import sys\nimport numpy\nfrom safetensors.numpy import save_file\n"
        "from alphanet_zoo.cli.command import CommandParser, run_command\nfrom alphanet_zoo.files import replacing\n"
        "def save(arguments):\n"
        "    with replacing('small/x.safetensors') as temporary:\n"
        "        save_file({'x': numpy.zeros(99999)}, temporary)\n"
        "sys.exit(run_command(CommandParser('save', 'Saves.'), save))"
    )
    for command, name in (
        (f"{EXPORT} -o small/x.onnx", "small/x.onnx"),
        (f"{sys.executable} save.py", "small/x.safetensors"),  # Written by Rust, whose error is no OSError.
    ):
        filled = f"{mount} && head -c 4000 /dev/zero > small/kept"
        done = shell(f"unshare -m bash -c '{filled} && {{ {command}; echo $?; ls -A small; }}'", place)
        assert done.stdout == "1\nkept\n", done
        line = done.stderr.splitlines()[-1]
        assert f"error: {name}: no space left on device; free some space there" in line and "/tmp" not in line
