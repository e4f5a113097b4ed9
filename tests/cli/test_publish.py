"""``alphanet publish`` and ``alphanet models``: from a network to models that load by name."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alphanet_zoo as az
from alphanet_export.publish import Item, Recipe, publish, upload
from alphanet_zoo.cli.main import main
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.slim.named import named_slimmable
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net
from alphanet_zoo.zoo.local import local_model, published_folder
from alphanet_zoo.zoo.open import open_net
from tests.faults.dying import ENVIRONMENT

ROOT = Path(__file__).parents[2]


def images(folder: Path, classes: int = 10, each: int = 2, side: int = 16) -> Path:
    """A folder of random images in one folder per class."""
    draw = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"{label:04}").mkdir(parents=True)
        for number in range(each):
            pixels = draw.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{label:04}" / f"{number}.png")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("ALPHANET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ALPHANET_HUB_ORG", raising=False)
    return tmp_path / "home" / "models"


@pytest.fixture
def supernet(tmp_path: Path) -> Path:
    """A small supernet of 10 classes."""
    save_net(fill_live(build_supernet(ALPHANET_TINY, 10), seed=1), tmp_path / "supernet.safetensors")
    return tmp_path / "supernet.safetensors"


def test_a_subnet_of_a_trained_supernet_is_found_by_its_name(
    tmp_path: Path, home: Path, supernet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(images(tmp_path / "data"))
    words = ["publish", "--network", str(supernet), "--arch", "smallest", "--name", "mine", "--calib-data", data]
    words += ["--val", data, "--labels-by-position", "--calib-images", "16", "--to", "local"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "mine: written" in said and "top-1" in said and "(seeds: " in said
    files = {path.name for path in (home / "mine").iterdir()}
    assert files == {"README.md", "config.json", "manifest.json", "mine.onnx", "mine.verify.json", "model.safetensors"}
    opened = open_net("mine")
    assert opened.kind == "model" and opened.net.arch == ALPHANET_TINY.smallest and opened.net.top1 is not None
    before = (home / "mine" / "manifest.json").stat().st_mtime_ns
    assert main(words) == 0 and "mine: already published" in capsys.readouterr().out
    assert (home / "mine" / "manifest.json").stat().st_mtime_ns == before
    assert main(["models", "--verify"]) == 0 and "mine" in capsys.readouterr().out
    weights = home / "mine" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert main(["models", "--verify"]) == 1
    assert "mine (model.safetensors)" in capsys.readouterr().err
    with pytest.raises(AlphaNetError, match=r"is damaged \(model\.safetensors missing or changed\)"):
        open_net("mine")
    assert main(words) == 0 and "mine: written" in capsys.readouterr().out and not local_model("mine").damaged()  # type: ignore[union-attr]


NETWORK = """
import torch

def build(num_classes):
    layers = torch.nn.Conv2d(3, 16, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(16, num_classes))
"""


@pytest.mark.parametrize("network", ["timm/test_resnet", "publish_test_network:build"])
def test_a_slimmable_network_is_found_by_its_name(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    (tmp_path / "publish_test_network.py").write_text(NETWORK, "utf-8")
    monkeypatch.chdir(tmp_path)
    supernet = named_slimmable(network, 10, (3, 32, 32))
    save_net(supernet, "slim.safetensors")
    words = ["publish", "--network", "slim.safetensors", "--arch", "smallest", "--name", "mine", "--to", "local"]
    assert main([*words, "--calib-data", str(images(tmp_path / "data")), "--calib-images", "16", "--no-onnx"]) == 0
    files = {path.name for path in (home / "mine").iterdir()}
    described = {"config.json", "README.md"} if network.startswith("timm/") else set()
    assert files == {"model.safetensors", "manifest.json"} | described
    assert open_net("mine").net.arch == supernet.space.smallest
    if described:
        assert az.from_pretrained(home / "mine").arch == supernet.space.smallest


def test_a_stopped_publication_goes_on_with_the_models_that_lack(
    tmp_path: Path, supernet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, made = open_net(supernet).net, list[str]()
    items = [Item("small", ALPHANET_TINY.smallest), Item("large", ALPHANET_TINY.largest), Item("whole")]
    recipe = Recipe("supernet", None, FolderSource(images(tmp_path / "data")), None, images=16, onnx=False)

    def stop_after_one(line: str) -> None:
        made.append(line)
        if len(made) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(net, items, recipe, tmp_path / "out", say=stop_after_one)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small"]
    done = publish(net, items, recipe, tmp_path / "out")
    assert [each.resumed for each in done] == [True, False, False]
    other = Recipe("supernet", None, recipe.calibration, None, images=8, onnx=False)
    assert not publish(net, items[:1], other, tmp_path / "out")[0].resumed, "other settings"
    assert open_net(tmp_path / "out" / "whole").net.supernet


def test_validation_images_of_other_classes_are_refused_before_anything_is_written(
    tmp_path: Path, supernet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = str(images(tmp_path / "train")), str(images(tmp_path / "val", classes=3))
    words = ["publish", "--network", str(supernet), "--name", "mine", "--calib-data", train, "--val", val]
    assert main([*words, "--labels-by-position", "--to", str(tmp_path / "out" / "x")]) == 2
    assert "has 3 classes" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_publication_that_is_killed_while_it_calibrates_goes_on(tmp_path: Path, home: Path, supernet: Path) -> None:
    """F28, with real processes: killed at 5 moments of the calibration of the second model."""
    data = str(images(tmp_path / "data", each=200))
    command = [sys.executable, "-m", "alphanet_zoo.cli.main", "publish", "--network", str(supernet), "--arch",
               "smallest", "--arch", "largest", "--name", "mine", "--calib-data", data, "--calib-images", "2000",
               "--no-onnx", "--to", "local"]  # fmt: skip
    environment = {**ENVIRONMENT, "ALPHANET_HOME": str(home.parent)}
    first, second = home / "mine-smallest", home / "mine-largest"
    written = []
    for kill in range(5):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:  # The first model is complete: the second one is being calibrated.
            if line.startswith("mine-smallest: "):
                break
        time.sleep(0.05 * kill)
        process.kill()
        process.wait()
        process.stdout.close()
        assert not second.exists() and local_model("mine-smallest") is not None
        written.append((first / "manifest.json").stat().st_mtime_ns)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "mine-smallest: already published" in done.stdout and "mine-largest: written" in done.stdout
    assert len(set(written)) == 1, "the first model was written once"
    for name in ("mine-smallest", "mine-largest"):
        model = local_model(name)
        assert model is not None and not model.damaged() and isinstance(open_net(name).net.calibration, dict)


def test_an_upload_prints_the_pins(tmp_path: Path, supernet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("supernet", None, FolderSource(images(tmp_path / "data")), None, images=16, onnx=False)
    done = publish(open_net(supernet).net, [Item("small", ALPHANET_TINY.smallest)], recipe, tmp_path / "out")
    sent: list[tuple[str, str]] = []

    class Api:
        def create_repo(self, name: str, exist_ok: bool) -> None:
            assert exist_ok

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> object:
            sent.append((repo_id, Path(folder_path).name))
            return type("Commit", (), {"oid": "c" * 40, "commit_url": f"https://hub/{repo_id}/commit/ccc"})()

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    digest = done[0].model.sha256["model.safetensors"]
    assert upload(done, "lab") == [f'    "small": HubPin("lab/small", "{"c" * 40}", "{digest}"),']
    assert sent == [("lab/small", "small")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "pass either --upstream FILE or --network NET"),
        (["--upstream", "{file}"], "pass --accept-license if you accept that licence"),
        (["--upstream", "{file}", "--accept-license"], "--upstream requires --calib-data"),
        (["--network", "{file}"], "--network requires --name"),
        (["--network", "{file}", "--name", "../x"], "--name is '../x'"),
        (["--network", "{file}", "--name", "alphanet_a5"], "is the name of a published model"),
        (["--network", "{file}", "--name", "x", "--to", "no such place!"], "--to is 'no such place!'"),
        (["--network", "{file}", "--name", "x", "--arch", "smallest"], "requires calibration"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_writes_nothing(
    words: list[str], told: str, home: Path, supernet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(file=supernet) for word in words]
    assert main(["publish", *(["--to", "local"] if "--to" not in given else []), *given]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not home.exists()


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path, home: Path, supernet: Path) -> None:
    (tmp_path / "out" / "x").mkdir(parents=True)
    (tmp_path / "out" / "x" / "notes.txt").write_text("mine")
    assert main(["publish", "--network", str(supernet), "--name", "x", "--to", f"{tmp_path}/out"]) == 2
    assert (tmp_path / "out" / "x" / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_authors_checkpoint_makes_the_commands_work_without_an_option(
    upstream_checkpoint: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(images(tmp_path / "data", classes=4, each=4, side=64))
    words = ["publish", "--upstream", str(upstream_checkpoint), "--calib-data", data, "--calib-images", "16"]
    words += ["--to", "local", "--accept-license", "--model", "alphanet_a4", "--model", "alphanet_a0"]
    assert main(words) == 0
    capsys.readouterr()
    net = az.create_model("alphanet_a4", pretrained=True)
    assert net.top1 == pytest.approx(80.01, abs=0.01) and isinstance(net.calibration, dict)
    hub = torch.hub.load(str(ROOT), "alphanet_a4", source="local")
    assert torch.equal(hub.conv_stem.weight, net.conv_stem.weight)
    assert published_folder(home / "alphanet_a4") is not None
    done = subprocess.run(
        [sys.executable, "-m", "alphanet_zoo.cli.main", "export", "--flops", "444M", "--onnx"],
        cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "alphanet_a4.onnx").is_file(), done.stderr
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row["weights"] for row in json.loads(capsys.readouterr().out)}
    assert rows["alphanet_a4"].startswith("local: ") and rows["alphanet_a5"].startswith("not published")
