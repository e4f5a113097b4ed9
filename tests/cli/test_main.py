"""``alphanet`` and its subcommands as a user meets them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from alphanet_zoo.cli.main import COMMANDS, main
from alphanet_zoo.recipes import recipe_text, shipped_recipes

OLD = ("train", "search", "export", "verify", "convert")
HEAVY = "torch torchvision numpy onnx onnxruntime pydantic yaml PIL tqdm huggingface_hub safetensors openvino"


def python(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60)


def test_help_fits_one_screen_and_lists_every_command() -> None:
    done = python("-m", "alphanet_zoo", "--help")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "") and len(lines) <= 24 and max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[:3].strip() and line.startswith("  ")] == [
        *COMMANDS, "-h,", "--version",
    ]  # fmt: skip


def test_help_loads_nothing_heavy_and_no_subcommand() -> None:
    done = python("-X", "importtime", "-m", "alphanet_zoo", "--help")
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "alphanet_zoo.cli.main" in imported and not set(HEAVY.split()) & imported
    assert not {f"alphanet_zoo.cli.{name.replace('-', '_')}" for name in COMMANDS} & imported


def test_no_command_and_wrong_commands_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (([], "a command is required: train,"), (["serch"], "did you mean search?"), (["-x"], "'-x'")):
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("alphanet: error: ") and message in err and err.count("\n") == 1
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("alphanet 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_bad_usage_of_a_subcommand_load_nothing_heavy(name: str) -> None:
    script = (
        "import sys\n"
        "from alphanet_zoo.cli.main import main\n"
        "def call(*argv):\n"
        "    try:\n"
        f"        return main([{name!r}, *argv])\n"
        "    except SystemExit as end:\n"
        "        return end.code\n"
        "assert call('--help') == 0\n"
        "assert call('--no-such-flag') == 2\n"
        "assert call('--version') == 0\n"
        f"found = set({HEAVY!r}.split()) & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: alphanet {name}") and "%" not in done.stdout.replace(" %", "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"alphanet {name}: error: ")


@pytest.mark.parametrize("name", OLD)
def test_the_old_entry_points_have_the_same_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"alphanet_zoo.cli.{name}")
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    old = capsys.readouterr().out
    assert end.value.code == 0 and old.startswith(f"usage: alphanet-{name} ")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    new = capsys.readouterr().out
    assert old.replace(f"alphanet-{name}", f"alphanet {name}").split() == new.split()


@pytest.mark.parametrize("name", ["verify-data", "export-supernet"])
def test_subcommands_of_alphanet_train_go_on_with_a_note(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    train = importlib.import_module("alphanet_zoo.cli.train").main
    assert train([name, "/no/such/folder"]) == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note.startswith(f"alphanet-train: note: 'alphanet-train {name}' is deprecated")
    assert note.endswith(f"use 'alphanet {name}'") and error.startswith(f"alphanet {name}: error: ")


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(listed) == shipped_recipes() and all(text[-1] == "." for text in listed.values())
    assert listed["digits"] == "Handwritten digits: a supernet of the tiny search space, for a laptop CPU."
    assert main(["recipes", "digits"]) == 0
    assert capsys.readouterr().out == recipe_text("digits")


def test_a_printed_recipe_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "finetune"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    printed = []
    for recipe in ("finetune", str(tmp_path / "mine.yaml")):
        assert main(["train", recipe, "seed=3", "--print-config", "finetune.weights=x", "optim.lr=0.5"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "seed: 3\n" in printed[0] and "lr: 0.5\n" in printed[0]
