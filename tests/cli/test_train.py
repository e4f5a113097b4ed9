import os
import re
import resource
import shlex
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from alphanet_zoo.cli.main import main as alphanet
from alphanet_zoo.cli.search import make_parser
from alphanet_zoo.cli.train import main, prepare_threads
from alphanet_zoo.files import sha256_of


def write_images(root):
    rng = np.random.default_rng(0)
    for index in range(8):
        path = root / "train" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)


@pytest.fixture
def settings(tmp_path):
    write_images(tmp_path / "images")
    return [
        "--config", "digits", "data.source=folder", f"data.root={tmp_path / 'images'}", f"output={tmp_path / 'run'}",
        "data.batch_size=4", "log.progress=false", "device=cpu",
    ]  # fmt: skip


def test_a_recipe_becomes_a_supernet_and_the_same_command_goes_on(settings, tmp_path, capsys):
    assert main([*settings, "max_steps=2"]) == 0
    final = tmp_path / "run" / "final" / "model.safetensors"
    printed = capsys.readouterr().out
    assert printed.startswith(f"{final} (2 steps)\nnext: alphanet search --supernet {final} --calib-data ")
    before = sha256_of(final)
    assert main([*settings, "max_steps=3"]) == 0
    assert capsys.readouterr().out.startswith(f"{final} (3 steps)\n")
    assert sha256_of(final) != before


def test_digits_are_written_beside_the_run(tmp_path, capsys):
    argv = [f"output={tmp_path / 'run'}", "max_steps=1", "data.batch_size=4", "log.progress=false", "device=cpu"]
    assert main(["--config", "digits", *argv, "--dry-run", "2", "max_steps=2"]) == 0
    assert f"nothing was written to {tmp_path / 'run'}\n" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert main(["--config", "digits", *argv]) == 0
    assert f"--calib-data {tmp_path / 'run-data' / 'train'} " in capsys.readouterr().out
    assert len(list((tmp_path / "run-data").glob("train/*/*.png"))) == 1197


def test_nothing_is_written_into_a_folder_that_the_user_names(settings, tmp_path, capsys):
    settings.remove("data.source=folder")
    before = sorted((tmp_path / "images").rglob("*"))
    for root in ("images", "images/nowhere"):
        assert main([*settings, f"data.root={tmp_path / root}"]) == 2
        error = capsys.readouterr().err
        assert "add data.source=folder" in error and error.count("\n") == 1 and str(tmp_path / root) in error
    assert sorted((tmp_path / "images").rglob("*")) == before and not (tmp_path / "run").exists()


def test_print_config_resolves_and_does_nothing(settings, tmp_path, capsys):
    assert main([*settings, "optim.lr=0.125", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["optim"]["lr"] == 0.125 and printed["output"] == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    stored = tmp_path / "again.yaml"
    stored.write_text(yaml.safe_dump(printed))
    assert main(["--config", str(stored), "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == printed


def test_settings_prints_values_default_and_meaning(capsys):
    assert main(["--settings", "optim.lr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "optim.lr  (number above 0; required)"
    assert "Peak learning rate" in lines[1] and [x for x in lines if x.startswith("optim.")] == [
        lines[0], "optim.lr_batch  (integer at least 1 or null; default: null)"
    ]  # fmt: skip
    assert main(["--settings"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{key}  (" in printed for key in ("seed", "data.root", "sandwich.loss", "net.widths", "log.progress"))
    assert main(["--settings", "optin.lr"]) == 2
    assert capsys.readouterr().err.endswith("no setting begins with 'optin.lr'; did you mean optim.lr?\n")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--config"),
        (["--config", "digitz"], "did you mean digits?"),
        (["--config", "digits", "optim.lrate=1"], "did you mean optim.lr?"),
        (["--config", "digits", "seed=x"], "seed"),
        (["--config", "digits", "--unknown"], "--unknown"),
        (["finetune", "--data", "my_images"], "--data is a setting here, without dashes: data.root=my_images"),
        (["finetune", "--data=my images", "seed=1"], "data.root='my images'"),
        (["finetune", "--model", "alphanet_c10_m"], "finetune.model=alphanet_c10_m"),
        (["digits", "-o", "runs/mine"], "output=runs/mine"),
        (["digits", "--batch-size", "8"], "data.batch_size=8"),
        (["digits", "--seed", "optim.lr=1"], "seed=VALUE"),
        (["digits", "--optim.lr", "1"], "optim.lr=1"),
        (["digits", "--epochs"], "optim.epochs=VALUE"),
        (["--config", "digits", "data.source=folder", "data.root=/nowhere", "output={}"], "no such folder: /nowhere"),
        (["--config", "digits", "data.root=/nowhere", "space=x", "output={}"], "alphanet_tiny"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(argv, named, tmp_path, capsys):
    assert main([text.format(tmp_path / "run") for text in argv]) == 2
    captured = capsys.readouterr()
    assert named in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert not (tmp_path / "run").exists()


def test_what_fails_in_its_first_checks_leaves_no_folder(settings, tmp_path, capsys):
    output = tmp_path / "some" / "run"
    for wrong in ("validation.archs=alphanet_a0", "data.val=nowhere", "data.batch_size=400", "optim.accumulate=3"):
        assert main([*settings, f"output={output}", "validation.every_epochs=1", wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not output.parent.exists()
    output.parent.write_text("")
    assert main([*settings, f"output={output.parent}"]) == 2
    assert "a file" in capsys.readouterr().err and output.parent.read_text() == ""


def test_the_end_tells_the_accuracies_the_file_and_what_comes_next(settings, tmp_path, capsys):
    (tmp_path / "images" / "val").symlink_to(tmp_path / "images" / "train")
    end = ["max_steps=1", "validation.every_epochs=1", "validation.calibration_batches=1"]
    for _ in range(2):  # a run that had ended says the same again
        assert main([*settings, *end]) == 0
        smallest, largest, file, following = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"smallest: \d+\.\d% of 8 validation images", smallest) and largest.startswith("largest: ")
        assert file == f"{tmp_path / 'run' / 'final' / 'model.safetensors'} (1 steps)"
        program, command, *arguments = shlex.split(following.removeprefix("next: "))
        parsed = make_parser().parse_args(arguments)
        assert (program, command) == ("alphanet", "search") and parsed.data == tmp_path / "images" / "val"
        assert parsed.calib_data == tmp_path / "images" / "train"


def test_another_config_in_the_same_output_is_refused(settings, capsys):
    assert main([*settings, "max_steps=1"]) == 0
    assert main([*settings, "max_steps=1", "optim.lr=0.5"]) == 2
    assert "optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--help"], ["--config", "digits", "seed=x"], ["--config", "digits", "--print-config"], ["--settings"]]
)
def test_no_torch_before_there_is_work(argv):
    code = (
        "import sys; from alphanet_zoo.cli.train import main\n"
        f"try: main({argv!r})\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_is_quick():
    best = min(_help_seconds() for _ in range(3))
    assert best < 0.4


def _help_seconds():
    """Time on the CPU, which other programs do not change much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "alphanet_zoo.cli.train", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_time_limit_stops_like_sigterm_and_the_same_command_goes_on(settings, tmp_path, capsys):
    assert main([*settings, "max_steps=3", "--time-limit", "0.001"]) == 143
    assert f"stopped after step 1; continue with: alphanet resume {tmp_path / 'run'}\n" in capsys.readouterr().err
    assert main([*settings, "max_steps=3", "--time-limit", "600"]) == 0
    assert main([*settings, "--time-limit", "0"]) == 2


def test_resume_continues_a_run_also_where_it_was_moved_to(settings, tmp_path, capsys):
    assert main([*settings, "max_steps=1"]) == 0
    (tmp_path / "run").rename(tmp_path / "moved")
    before = sha256_of(tmp_path / "moved" / "final" / "model.safetensors")
    capsys.readouterr()
    assert alphanet(["resume", str(tmp_path / "moved"), "--time-limit", "600", "max_steps=2"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'moved' / 'final' / 'model.safetensors'} (2 steps)\n")
    assert sha256_of(tmp_path / "moved" / "final" / "model.safetensors") != before
    assert alphanet(["resume", str(tmp_path / "moved"), "optim.lr=0.5"]) == 2
    assert "optim.lr" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_recipe_may_come_first_and_options_between_settings(capsys):
    printed = []
    for argv in (
        ["--config", "digits", "seed=3", "optim.lr=0.5", "--print-config"],
        ["digits", "seed=3", "--print-config", "optim.lr=0.5"],
        ["--print-config", "digits", "seed=3", "optim.lr=0.5"],
        ["seed=3", "--config", "digits", "optim.lr=0.5", "--print-config"],
    ):
        assert main(argv) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 1 and "seed: 3\n" in printed[0]
    assert main(["seed=3"]) == 2 and "a recipe is required" in capsys.readouterr().err


def test_a_dry_run_takes_a_number_as_the_help_shows_it(settings, tmp_path, capsys):
    for words in (["--dry-run", "2"], ["--dry-run=2"]):
        assert main([*settings, *words, "optim.lr=0.1"]) == 0
        assert f"2 steps, the first not timed; nothing was written to {tmp_path / 'run'}\n" in capsys.readouterr().out
    assert main([*settings, "--dry-run", "1"]) == 2 and "2 or more" in capsys.readouterr().err


def test_threads_sleep_while_they_wait_and_their_number_can_be_set(settings, monkeypatch):
    code = (
        "import sys, os; from alphanet_zoo.cli.train import main\n"
        "assert 'torch' not in sys.modules\n"
        "code = main(sys.argv[1:])\n"
        "import torch; print(code, torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    command = [sys.executable, "-c", code, *settings, "data.root=/nowhere", "--threads", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "2 3 PASSIVE\n", done.stderr
    assert main([*settings, "--threads", "0"]) == 2
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    prepare_threads(None)
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_a_redirected_run_reports_its_progress_and_its_end(settings, tmp_path, capsys):
    (tmp_path / "images" / "val").symlink_to(tmp_path / "images" / "train")
    settings.remove("log.progress=false")
    settings += ["log.every_steps=1", "validation.every_epochs=1", "validation.archs=smallest"]
    assert main([*settings, "max_steps=2"]) == 0
    first, second, validation = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/2 (epoch 1/14): ") and second.startswith("step 2/2 ")
    assert validation.startswith("step 2/2 validation: smallest ")
    assert main([*settings, "max_steps=3"]) == 0
    assert capsys.readouterr().err.splitlines()[0] == "resumed from step 2 of 3"
    assert alphanet(["resume", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(
        f"alphanet resume: the run in {tmp_path / 'run'} is complete (3 steps); set a larger"
    )
    assert captured.err.count("\n") == 1 and "next: alphanet search" in captured.out


def test_a_bare_dry_run_before_a_setting_takes_20_steps(settings, capsys):
    assert main([settings[1], "--dry-run", *settings[2:], "max_steps=3"]) == 2
    assert "dry run takes 20 steps" in capsys.readouterr().err
