"""Slimmable networks through the commands: trained, resumed, searched, exported and verified."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import alphanet_zoo as az
from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.evaluator import Evaluator
from alphanet_zoo.slim.named import named_slimmable
from alphanet_zoo.slim.network import SlimNet
from alphanet_zoo.slim.space import SlimSpace
from alphanet_zoo.slim.supernet import Slimmable
from alphanet_zoo.zoo.files import load_net, save_net
from alphanet_zoo.zoo.hub import from_pretrained
from alphanet_zoo.zoo.open import open_net
from tests.slim.own import MODULE, SETTINGS

ROOT = Path(__file__).parents[2]

QUICK = ["--repeats", "2", "--seconds", "0.05", "--starts", "1"]

pytestmark = pytest.mark.filterwarnings("ignore:batch-norm calibration uses all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a network of the user's, which is the current one."""
    path = tmp_path_factory.mktemp("slimmable")
    (path / "own_network.py").write_text(MODULE, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


def train(output: str, *settings: str) -> int:
    return main(["train", "slimmable_cifar10", *SETTINGS, f"output={output}", *settings])


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A finished run of 40 steps."""
    assert train("run", "max_steps=40", "validation.every_epochs=4") == 0
    return folder / "run"


def test_a_run_learns_and_validates_its_ends(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    figures = [line["validation"] for line in lines if "validation" in line][-1]
    assert set(figures) == {"smallest", "largest"}
    assert figures["largest"]["accuracy"] > 0.5 and figures["largest"]["images"] == 300


def test_a_stopped_run_gives_the_same_bytes(run: Path) -> None:
    """Stopped at step 23, between two checkpoints, and continued; validation does not change the weights."""
    assert train("stopped", "max_steps=23") == 0
    assert train("stopped", "max_steps=40") == 0
    for name in ("model.safetensors", "ema.safetensors"):
        assert (run.parent / "stopped" / "final" / name).read_bytes() == (run / "final" / name).read_bytes()


def test_a_run_is_opened_without_the_original_weights(run: Path) -> None:
    opened = open_net(run)
    net = opened.net
    assert isinstance(net, Slimmable) and net.supernet and net.num_classes == 10
    assert opened.kind == "run" and "supernet of 10 classes" in str(opened)
    assert net.pretrained_cfg["label_names"] == tuple(map(str, range(10)))
    again = from_pretrained(run)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    averaged = open_net(run, ema=True).net.state_dict()
    assert any(not torch.equal(tensor, averaged[name]) for name, tensor in net.state_dict().items())
    assert open_net(run.parent / "stopped", unfinished=True).net.state_dict().keys() == averaged.keys()


def test_a_calibrated_subnet_is_saved_and_opened(run: Path, tmp_path: Path) -> None:
    supernet, images = open_net(run).net, torch.randn(64, 3, 16, 16)
    static = supernet.subnet(supernet.space.smallest)
    assert isinstance(static, SlimNet) and static.calibration == "sliced"
    assert type(static.net) is nn.Sequential and static.net[0].out_channels == 8
    az.calibrate(static, [images])
    save_net(static, tmp_path / "small.safetensors")
    again = load_net(tmp_path / "small.safetensors")
    assert isinstance(again, SlimNet) and again.arch == static.arch and again.space == static.space
    assert again.calibration == static.calibration and again.pretrained_cfg == static.pretrained_cfg
    assert torch.equal(again(images), static(images))
    assert torch.equal(again(images), static.net(images))


def test_search_export_and_verify(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--calib-data", "run-data/train"]
    searched = ["--data", "run-data/val", "--evaluations", "2", "--calib-images", "64", "-o", "front.json"]
    assert main(["search", "--supernet", "run", *data, *searched, "--best", "best.json"]) == 0
    front = json.loads(Path("front.json").read_text("utf-8"))["front"]
    space = open_net(run).net.space
    assert all(space.count_macs(az.SlimArch.from_dict(entry["arch"])) == entry["macs"] for entry in front)
    assert main(["export", "--supernet", "run", "--arch", "smallest", *data, "--onnx", "-o", "small.onnx"]) == 0
    capsys.readouterr()
    assert main(["verify", "small.onnx", "--reference", "run", *data, *QUICK]) == 0
    text = capsys.readouterr().out
    assert "PASSED: outputs match the PyTorch reference" in text and "width 0.25" in text
    assert main(["arch", "small.onnx"]) == 0
    assert f"{space.count_macs(space.smallest)} MACs" in capsys.readouterr().out
    assert main(["export", "--supernet", "run", "--arch", "best.json", *data, "-o", "best.safetensors"]) == 0
    best = load_net("best.safetensors").arch
    assert best.to_dict() == json.loads(Path("best.json").read_text("utf-8")) and best != space.smallest
    capsys.readouterr()
    assert main(["verify", "small.onnx", "--reference", "best.safetensors", *QUICK]) == 2
    assert "pass the network that it was exported from" in capsys.readouterr().err


def test_a_space_is_restored_from_plain_values(folder: Path) -> None:
    for tie in ("uniform", "stage", None):
        space = named_slimmable("own_network:build", 10, (3, 16, 16), tie=tie, resolutions=(12, 16)).space
        again = SlimSpace.from_dict(json.loads(json.dumps(space.to_dict())))
        assert again == space and hash(again) == hash(space) and again.largest == space.largest
        for arch in (space.smallest, space.at(0.5), space.largest):
            assert again.count_macs(arch) == space.count_macs(arch)
            assert again.count_params(arch) == space.count_params(arch)
        assert named_slimmable("own_network:build", 11, (3, 16, 16), tie=tie, resolutions=(12, 16)).space != space
    with pytest.raises(ValueError, match="not the space of a slimmable network"):
        SlimSpace.from_dict({**space.to_dict(), "groups": None})


def test_the_best_subnet_of_a_front_within_a_budget_is_created(run: Path) -> None:
    data = ["--calib-data", "run-data/train", "--data", "run-data/val", "--calib-images", "64"]
    assert main(["search", "--supernet", "run", *data, "--evaluations", "2", "--nets", "-o", "front"]) == 0
    largest = json.loads(Path("front/front.json").read_text("utf-8"))["front"][-1]
    net = az.create_model("front", macs=largest["macs"])
    assert isinstance(net, SlimNet) and net.space.count_macs(net.arch) <= largest["macs"] and not net.training
    assert type(net.net) is nn.Sequential and net(torch.randn(1, 3, 16, 16)).shape == (1, 10)
    with pytest.raises(UsageError, match="build keeps its 10 classes"):
        az.create_model("front", macs=largest["macs"], num_classes=3)
    with pytest.raises(ValueError, match="build is not an AlphaNet"):
        az.create_model("front", macs=largest["macs"], features_only=True)


def test_weights_are_loaded(folder: Path, tmp_path: Path) -> None:
    """The reordered supernet computes what the network computes; another classifier is not loaded."""
    import own_network  # type: ignore[import-not-found]

    torch.manual_seed(3)
    net, images = own_network.build(10).eval(), torch.randn(4, 3, 16, 16)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    file = tmp_path / "net.pth"
    torch.save(net.state_dict(), file)
    loaded = named_slimmable("own_network:build", 10, (3, 16, 16), weights=file).eval()
    assert torch.allclose(loaded(images), net(images), atol=1e-5)
    assert not torch.equal(loaded.net[0].weight, net[0].weight), "the channels are not reordered"
    other = named_slimmable("own_network:build", 4, (3, 16, 16), weights=file, importance=None)
    assert torch.equal(other.net[0].weight, net[0].weight) and other.net[-1].out_features == 4
    assert 0.005 < other.net[-1].weight.std() < 0.015 and not other.net[-1].bias.any()
    again = named_slimmable("own_network:build", 4, (3, 16, 16), weights=file, importance=None)
    assert torch.equal(other.net[-1].weight, again.net[-1].weight)
    torch.save({name: tensor for name, tensor in net.state_dict().items() if name != "3.weight"}, file)
    with pytest.raises(UsageError, match=r"does not contain the weights of own_network:build: 3\.weight"):
        named_slimmable("own_network:build", 10, (3, 16, 16), weights=file)


def test_dropout_is_applied_at_the_largest_arch_only(folder: Path) -> None:
    supernet = named_slimmable("own_network:build", 10, (3, 16, 16)).train()
    images, before = torch.randn(4, 3, 16, 16), set(vars(supernet.net[-1]))
    supernet.drop_rate = 0.5
    assert not torch.equal(supernet(images), supernet(images))
    small = supernet.space.smallest
    assert torch.equal(supernet(images, small), supernet(images, small))
    assert set(vars(supernet.net[-1])) == before
    with pytest.raises(UsageError, match=r"drop_path_rate is 0\.2, but build has no stochastic depth"):
        supernet.drop_path_rate = 0.2


def test_a_network_without_batch_norm_is_evaluated_as_it_is() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    supernet = az.slimmable(nn.Sequential(*layers, nn.Linear(16, 5)), (3, 16, 16))
    source = open_digits()
    static = Evaluator(None, source).calibrated(supernet, supernet.space.smallest)
    assert not static.training and static.calibration == "training"
    with pytest.raises(ValueError, match="was passed as a module"):
        static.config()


def open_digits():  # type: ignore[no-untyped-def]
    from alphanet_zoo.data.config import DataConfig
    from alphanet_zoo.data.sources import open_source

    return open_source(DataConfig(source="digits", batch_size=8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["net=timm/resnet0"], "timm has no network 'resnet0'"),
        (["net=torchvision/raft_small"], "torchvision has no classifier 'raft_small'"),
        (["net=resnet18"], "pass timm/NAME, torchvision/NAME or module:function"),
        (["net=own_network:absent"], "no function 'absent'"),
        (["net=own_network:nothing"], "returns a NoneType"),
        (["net=absent_module:build"], "absent_module"),
        (["net.weights=absent.pth"], "the weights absent.pth are not a file"),
        (["space=alphanet_tiny"], "pass space=net"),
        (["data.image_size=0"], "pass data.image_size=64"),
        (["net.resolutions=[12,14]"], "their largest value must be the same"),
        (["net.widths=[0.5,0.25]"], "pass ascending shares"),
        (["net.width=[0.5,1.0]"], "did you mean net.widths"),
        (["distributed.sync_bn=true"], "pass distributed.sync_bn=false"),
        (["optim.compile=true"], "pass optim.compile=false"),
        (["optim.cuda_graphs=true"], "optim.cuda_graphs requires a GPU"),
        (["optim.kernels=compiled", "optim.precision=bf16"], "kernels=compiled requires precision=fp32"),
        (["sandwich.drop_path_rate=0.2"], "sandwich.drop_path_rate=0"),
        (["validation.every_epochs=1", "validation.archs=alphanet_a0"], "is not an arch of the space build"),
    ],
)
def test_bad_settings(folder: Path, settings: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("bad", "max_steps=1", *settings) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("bad").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/mobilenet_v3_small"])
def test_networks_of_libraries(folder: Path, name: str) -> None:
    output = name.replace("/", "-")
    settings = [f"net={name}", "data.image_size=32", "optim.epochs=1", "max_steps=3", "optim.ema_decay=null"]
    assert train(output, *settings, "validation.every_epochs=1") == 0
    data = ["--calib-data", f"{output}-data/train"]
    assert main(["export", "--supernet", output, "--arch", "smallest", *data, "--onnx", "-o", f"{output}.onnx"]) == 0
    assert main(["verify", f"{output}.onnx", "--reference", output, *data, *QUICK]) == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_python_of_the_documentation_runs(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    text = (ROOT / "docs" / "slimmable.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 7
    (tmp_path / "page.py").write_text("\n".join(blocks) + "\nassert logits.shape == (1, 10)\n", "utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "export")))}
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in (tmp_path / "build").glob("*.onnx")} >= {"resnet18_0.25.onnx", "switchable.onnx"}
