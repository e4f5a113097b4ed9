"""What every command shares."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from alphanet_zoo import errors
from alphanet_zoo.cli import arguments
from alphanet_zoo.cli.arguments import check_place, existing_path, parse_macs
from alphanet_zoo.cli.command import CommandParser, run_command

COMMANDS = ("train", "search", "export", "verify", "convert", "demo")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("444M", (444e6, 1e6)),
        ("0.5G", (0.5e9, 1e8)),
        ("491.48M", (491.48e6, 1e4)),
        ("203389568", (203389568.0, 1.0)),
        ("1k", (1e3, 1e3)),
        (" 2g ", (2e9, 1e9)),
    ],
)
def test_budgets(text: str, expected: tuple[float, float]) -> None:
    assert parse_macs(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "0", "0M", "-1", "nan", "inf", "M", "4 44M", "1e9", "444MB", "٣M", ".", "1..2G"])
def test_bad_budgets_are_refused(text: str) -> None:
    with pytest.raises(errors.UsageError, match="not a budget of MACs"):
        parse_macs(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.AlphaNetError("x"), 1),
        (OSError("x"), 1),
        (RuntimeError("x"), 1),
        (errors.UsageError("x"), 2),
        (ValueError("x"), 2),
        (errors.ParityError("x"), 3),
        (errors.AccuracyError("x"), 4),
        (errors.TargetError("x"), 5),
        (errors.MissingDependencyError("openvino", "openvino"), 6),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def action(_: argparse.Namespace) -> None:
        raise error

    assert run_command(CommandParser("tool", "A tool."), action, []) == code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("tool: error: ") and captured.err.count("\n") == 1
    assert run_command(CommandParser("tool", "A tool."), action, ["--debug"]) == code
    assert ("Traceback" in capsys.readouterr().err) == (code != 130)


def test_an_error_of_many_lines_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def action(_: argparse.Namespace) -> None:
        raise ValueError("first\nsecond\n  third")

    run_command(CommandParser("tool", "A tool."), action, [])
    assert capsys.readouterr().err == "tool: error: first second third\n"


def test_missing_dependency_says_how_to_add_it() -> None:
    assert str(errors.MissingDependencyError("openvino", "openvino")).endswith("pip install 'alphanet-zoo[openvino]'")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("positive_int", {"1": 1, "12": 12}, ["0", "-1", "1.0", "", "one", "²"]),
        ("natural_int", {"0": 0, "7": 7}, ["-1", "0.5", "", "+1"]),
        ("positive_float", {"0.5": 0.5, "1e3": 1000.0}, ["0", "-1", "nan", "inf", "", "fast"]),
        ("percentage", {"0": 0.0, "99.5": 99.5, "100": 100.0}, ["-1", "100.1", "nan", "", "half"]),
    ],
)
def test_numbers(kind: str, good: dict[str, float], bad: list[str]) -> None:
    convert = getattr(arguments, kind)
    assert {text: convert(text) for text in good} == good
    for text in bad:
        with pytest.raises(errors.UsageError, match="not a p"):
            convert(text)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_place(tmp_path / "new" / "deep" / "x.json", "-o")
    with pytest.raises(errors.UsageError, match=r"--json: .*x.json lies below .*file, which is a file"):
        check_place(tmp_path / "file" / "x.json", "--json")


def test_an_error_of_the_system_names_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def action(_: argparse.Namespace) -> None:
        (tmp_path / "no" / "x").write_text("")

    assert run_command(CommandParser("tool", "A tool."), action, []) == 1
    remedy = "pass a path that exists and that you may read or write"
    assert capsys.readouterr().err == f"tool: error: {tmp_path}/no/x: no such file or directory; {remedy}\n"


def test_existing_path() -> None:
    assert existing_path(__file__).is_file()
    for missing in ("", "/no/such/file"):
        with pytest.raises(errors.UsageError, match="does not exist"):
            existing_path(missing)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_bad_usage_import_no_torch(command: str) -> None:
    script = (
        "import sys\n"
        f"from alphanet_zoo.cli.{command} import main\n"
        "def call(*argv):\n"
        "    try:\n"
        "        return main(list(argv))\n"
        "    except SystemExit as end:\n"
        "        return end.code\n"
        "assert call('--help') == 0\n"
        "assert call('--no-such-flag') == 2\n"
        "assert call('--version') == 0\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and f"{command}: error:" in done.stderr
