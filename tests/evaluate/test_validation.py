import json
import re

import pytest
import torch

from alphanet_zoo.cli.train import main
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.calibration import calibration_batches
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.loop import train
from alphanet_zoo.train.validation import Validator
from alphanet_zoo.zoo.files import load_net


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "data")


def settings(root, output, *overrides):
    return [f"data.root={root}", f"output={output}", "log.progress=false", "device=cpu", "data.batch_size=64",
            "optim.epochs=2", "optim.lr=0.1", "optim.clip_value=1", "optim.warmup_epochs=0.2", "sandwich.loss=kl",
            "validation.calibration_batches=2", *overrides]  # fmt: skip


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "run"
    overrides = settings(root, output, "validation.every_epochs=1", "validation.archs=smallest,largest",
                         "optim.ema_decay=0.5", "checkpoint_every_steps=18")  # fmt: skip
    assert main(["--config", "digits", *overrides]) == 0
    return output


def validations(output):
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["validation"] for line in lines if "validation" in line}


def test_every_epoch_and_the_end_are_validated(trained, root):
    measured = validations(trained)
    assert list(measured) == [18, 36]
    assert all(set(figures) == {"smallest", "largest"} for figures in measured.values())
    assert measured[36]["largest"] == {
        "accuracy": pytest.approx(measured[36]["largest"]["accuracy"]),
        "images": 300.0,
        "correct": pytest.approx(300 * measured[36]["largest"]["accuracy"]),
    }
    assert measured[36]["largest"]["accuracy"] > 0.15
    assert train(load_config(str(trained / "config.yaml"))).step == 36 and list(validations(trained)) == [18, 36]


@pytest.mark.slow
def test_validation_does_not_touch_the_training(trained, root, tmp_path):
    plain = train(load_config("digits", settings(root, tmp_path, "optim.ema_decay=0.5")))
    assert sha256_of(plain.model) == sha256_of(trained / "final" / "model.safetensors")


def test_the_figure_is_that_of_the_calibrated_subnet(trained, root):
    config = load_config(str(trained / "config.yaml"))
    net = load_net(trained / "final" / "model.safetensors")
    validator = Validator(config, Ranks(0, 1, torch.device("cpu")))
    measured = validator(net.train(), lambda: False)
    assert measured == validations(trained)[36]
    static, preprocessing = net.extract(net.space.smallest), input_of(net, net.space.smallest.resolution)
    calibrate(static, calibration_batches(FolderSource(root / "train"), preprocessing, images=2 * 256))
    hits = sum(
        int((static(images).argmax(1) == labels).sum())
        for images, labels in evaluation_batches(FolderSource(root / "val"), preprocessing, 100)
    )
    assert hits == measured["smallest"]["correct"] == round(300 * measured["smallest"]["accuracy"])


def test_a_signal_cuts_a_validation_short(trained):
    config = load_config(str(trained / "config.yaml"))
    net = load_net(trained / "final" / "model.safetensors").train()
    assert Validator(config, Ranks(0, 1, torch.device("cpu")))(net, lambda: True) is None


def test_names_that_the_space_lacks_are_refused(root, tmp_path):
    overrides = settings(root, tmp_path, "validation.every_epochs=1", "validation.archs=alphanet_a0")
    with pytest.raises(UsageError, match="alphanet_a0 is not an arch of the space alphanet_tiny"):
        train(load_config("digits", overrides))


def test_the_net_of_a_run_becomes_a_file_at_its_end_and_before(trained, root, tmp_path, capsys):
    target = tmp_path / "net.safetensors"
    assert main(["export-supernet", str(trained), "-o", str(target)]) == 0
    assert "(final, sha256 " in capsys.readouterr().out
    assert sha256_of(target) == sha256_of(trained / "final" / "model.safetensors")
    assert main(["export-supernet", str(trained), "--ema", "-o", str(target)]) == 0
    assert sha256_of(target) == sha256_of(trained / "final" / "ema.safetensors")
    (trained / "final" / "model.safetensors").rename(tmp_path / "kept")
    assert main(["export-supernet", str(trained), "-o", str(target)]) == 0
    (tmp_path / "kept").rename(trained / "final" / "model.safetensors")
    assert "(step 36, sha256 " in capsys.readouterr().out
    assert sha256_of(target) == sha256_of(trained / "final" / "model.safetensors")


@pytest.mark.parametrize(
    ("argv", "code", "named"),
    [
        (["{}", "-o", "x.onnx"], 2, "does not end with .safetensors"),
        (["{}", "-o", "x.safetensors"], 2, "is not a training run"),
        (["/nowhere", "-o", "x.safetensors"], 2, "/nowhere"),
        (["{}"], 2, "-o"),
    ],
)
def test_export_supernet_refuses_other_folders(argv, code, named, tmp_path, capsys):
    assert main(["export-supernet", *(text.format(tmp_path) for text in argv)]) == code
    assert named in capsys.readouterr().err


def test_a_dry_run_tells_the_time_and_writes_nothing(root, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["--config", "digits", "--dry-run=3", *settings(root, output)]) == 0
    printed = capsys.readouterr().out
    assert "3 steps" in printed and "MiB" in printed
    assert re.search(r"whole run: 36 steps, about \d[\d.]* (s|min|min \d+ s) without", printed)
    assert not output.exists()
    schedule = "sandwich.resolution_schedule=[[0.5, 8], [0.5, 16]]"
    assert main(["--config", "digits", "--dry-run", "3", *settings(root, output, schedule)]) == 0
    printed = capsys.readouterr().out
    for resolution in (8, 16):
        assert re.search(rf"^up to {resolution} pixels \(18 steps\): \d+\.\d+ s per step", printed, re.MULTILINE)
    assert "whole run: 36 steps" in printed
    assert main(["--config", "digits", "--dry-run=1", *settings(root, output)]) == 2
    assert main(["--config", "digits", "--dry-run", *settings(root, output, "max_steps=3")]) == 2
    assert "dry run takes 20 steps" in capsys.readouterr().err
