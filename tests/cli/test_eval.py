"""``alphanet eval`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

import alphanet_zoo as az
from alphanet_zoo.cli.main import main
from alphanet_zoo.evaluate.statistics import wilson_interval
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net
from tests.predict.pictures import labelled_net

NAMES = [f"name {letter}" for letter in "abcdefghij"]


@pytest.fixture(scope="module")
def net() -> AlphaNet:
    net = labelled_net()
    net.pretrained_cfg["label_names"] = NAMES
    return net


@pytest.fixture(scope="module")
def root(net: AlphaNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, and 30 images of which it classifies 20 correctly."""
    root = tmp_path_factory.mktemp("eval")
    save_net(net, root / "net.safetensors")
    rng, classifier = np.random.default_rng(0), az.Classifier(net)
    for index in range(30):
        image = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((20, 20))
        found = classifier.predict(image)[0].index
        label = NAMES[found if index < 20 else (found + 1) % 10]
        (root / "val" / label).mkdir(parents=True, exist_ok=True)
        image.save(root / "val" / label / f"{index:02d}.png")
    return root


def test_the_figures_are_those_of_the_classifier(net: AlphaNet, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", str(root / "net.safetensors"), "--data", str(root / "val")]
    assert main([*command, "--json", "--batch-size", "7"]) == 0
    found = json.loads(capsys.readouterr().out)
    results = [each for each in az.Classifier(net).predict(root / "val") if each.path is not None]
    truth = torch.tensor([NAMES.index(each.path.parent.name) for each in results if each.path is not None])
    logits = torch.from_numpy(np.stack([each.logits for each in results]))
    low, high = wilson_interval(20, 30)
    assert (found["images"], found["resolution"]) == (30, net.arch.resolution)
    assert found["top1"] == pytest.approx(100 * 20 / 30)
    assert found["top1_interval"] == pytest.approx([100 * low, 100 * high])
    five = logits.topk(5).indices
    assert found["top5"] == pytest.approx(100 * float((five == truth[:, None]).any(1).float().mean()))
    assert found["nll"] == pytest.approx(float(cross_entropy(logits, truth)), rel=1e-5)
    assert 0 < found["ece"] < 100
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "30 of " in text and f"top-1:    66.67 % (95 % interval {100 * low:.2f} to {100 * high:.2f})" in text


def test_a_minimum_decides_the_exit_code(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", str(root / "net.safetensors"), "--data", str(root / "val"), "--min-top1"]
    assert main([*command, "66.6"]) == 0
    assert main([*command, "66.7"]) == 4
    out, err = capsys.readouterr()
    assert "top-1:    66.67 %" in out and "top-1 is 66.67 %; the minimum is 66.7 % (--min-top1)" in err


def test_a_subnet_is_calibrated(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    supernet.calibration = None
    supernet.pretrained_cfg["label_names"] = NAMES
    save_net(supernet, tmp_path / "supernet.safetensors")
    command = ["eval", str(tmp_path / "supernet.safetensors"), "--data", str(root / "val"), "--json"]
    assert main(command) == 2
    assert "is a supernet" in capsys.readouterr().err
    assert main([*command, "--arch", "smallest", "--calib-data", str(root / "val")]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["resolution"] == ALPHANET_TINY.smallest.resolution
    assert "is near chance" in err


def test_what_cannot_be_evaluated_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    several = labelled_net()
    several.pretrained_cfg["multi_label"] = True
    save_net(several, tmp_path / "several.safetensors")
    (tmp_path / "cats" / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "cats" / "cat" / "0.png")
    net, data = str(root / "net.safetensors"), ["--data", str(root / "val")]
    for words, code, told in (
        ([net, "--data", str(tmp_path / "cats")], 2, "Rename the folders, or pass --labels-by-position"),
        ([net, "--data", net], 2, "is not a folder"),
        ([net, *data, "--device", "cuda"], 2, "torch finds no GPU"),
        ([str(tmp_path / "several.safetensors"), *data], 2, "several labels"),
        (["model.onnx", *data], 2, "alphanet verify model.onnx"),
        (["alphanet_c10_mm", *data], 2, "did you mean alphanet_c10_m"),
    ):
        assert main(["eval", *words]) == code
        assert told in capsys.readouterr().err
