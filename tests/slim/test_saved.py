"""Slimmable networks as folders, on the Hub, and exported from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import alphanet_zoo as az
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.family import Network
from alphanet_zoo.slim.named import named_slimmable
from alphanet_zoo.slim.network import SlimNet
from alphanet_zoo.slim.supernet import Slimmable
from alphanet_zoo.zoo.hub import save_pretrained
from tests.hub_server import HubClient, HubServer
from tests.slim.own import MODULE

NAME = "torchvision/squeezenet1_1"
LABELS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def supernet() -> Slimmable:
    """A slimmable network of torchvision with five classes."""
    net = named_slimmable(NAME, 5, (3, 32, 32), widths=(0.5, 1.0))
    net.pretrained_cfg["label_names"] = LABELS
    return net


@pytest.fixture(scope="module")
def saved(supernet: Slimmable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of the supernet and of a subnet."""
    path = tmp_path_factory.mktemp("saved")
    supernet.save_pretrained(path / "supernet")
    supernet.subnet(supernet.space.at(0.5)).save_pretrained(path / "subnet")
    return path / "supernet", path / "subnet"


def same_tensors(a: Network, b: Network) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_subnet_is_loaded_from_its_folder(supernet: Slimmable, saved: tuple[Path, Path]) -> None:
    net, expected = az.from_pretrained(saved[1]), supernet.subnet(supernet.space.at(0.5))
    assert isinstance(net, SlimNet) and net.arch == expected.arch and net.space == supernet.space
    assert same_tensors(net, expected) and net.config() == expected.config() and not net.training
    assert net.pretrained_cfg["label_names"] == LABELS
    card = (saved[1] / "README.md").read_text("utf-8")
    assert "library_name: alphanet-zoo" in card and 'az.from_pretrained("subnet")' in card
    assert f"{supernet.space.count_macs(expected.arch) / 1e6:.1f} M multiply-accumulates" in card
    assert "timm.create_model" not in card


@pytest.mark.slow
def test_a_supernet_is_loaded_by_its_class(supernet: Slimmable, saved: tuple[Path, Path]) -> None:
    net = Slimmable.from_pretrained(saved[0])
    assert net.supernet and same_tensors(net, supernet)
    with pytest.raises(UsageError, match=r"contains a Slimmable, not a AlphaNet; call alphanet_zoo\.from_pretrained"):
        az.AlphaNet.from_pretrained(saved[0])


@pytest.mark.parametrize("network", ["own_network:build", "os:system", "hf-hub:someone/net", "timm", None])
def test_a_folder_cannot_choose_code(
    saved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str | None
) -> None:
    """Neither the folder's config nor a module in the current folder is run."""
    shutil.copytree(saved[1], tmp_path / "net")
    (tmp_path / "own_network.py").write_text("raise SystemExit('the code of the folder was run')", "utf-8")
    monkeypatch.chdir(tmp_path)
    config = json.loads((tmp_path / "net" / "config.json").read_text("utf-8"))
    config["alphanet"]["network"] = network
    (tmp_path / "net" / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(AlphaNetError, match="names code, which a saved folder must not choose"):
        az.from_pretrained("net")


def test_a_network_of_code_is_not_saved_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_network.py").write_text(MODULE, "utf-8")
    monkeypatch.chdir(tmp_path)
    net = named_slimmable("own_network:build", 10, (3, 16, 16))
    with pytest.raises(ValueError, match="names code"):
        save_pretrained(net, "net")


@pytest.mark.slow
def test_a_hub_repository(supernet: Slimmable, saved: tuple[Path, Path], tmp_path: Path) -> None:
    push = """
import warnings
import alphanet_zoo as az
warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)  # huggingface_hub calls httpx in its old way.
net = az.from_pretrained(folder)
result = net.push_to_hub("someone/slim", token="hf_test")
"""
    load = """
import alphanet_zoo as az
net = az.from_pretrained("someone/slim")
result = [type(net).__name__, net.arch.to_dict(), float(sum(t.double().sum() for t in net.state_dict().values()))]
"""
    with HubServer() as server, HubClient(server, tmp_path / "home") as client:
        pushed = client(push, folder=str(saved[1]))
        assert "/commit/" in pushed.get("value", ""), pushed
        assert set(server.files("someone/slim")) == {"config.json", "model.safetensors", "README.md"}
        value = client(load)["value"]
    static = supernet.subnet(supernet.space.at(0.5))
    total = float(sum(t.double().sum() for t in static.state_dict().values()))
    assert value == ["SlimNet", static.arch.to_dict(), total]


def small_supernet() -> Slimmable:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels, out in ((3, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return az.slimmable(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)), (3, 16, 16))


def test_export_from_python(tmp_path: Path) -> None:
    """The module of a subnet is trained further by the user's own loop, and then exported."""
    supernet = small_supernet()
    arch, images = supernet.space.at(0.5), torch.randn(64, 3, 16, 16)
    exported = supernet.export(tmp_path / "small.onnx", arch=arch, calibration=[images])
    assert exported.macs == supernet.space.count_macs(arch) and exported.files[0].parity_error < 1e-5
    static = supernet.subnet(arch).train()
    optimizer = torch.optim.SGD(static.net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(static.net(images), torch.arange(64) % 10).backward()
        optimizer.step()
    assert static.calibration == "training"
    static.eval().export(tmp_path / "tuned.onnx")
    classifier = az.Classifier.load(tmp_path / "tuned.onnx")
    picture = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    expected = az.Classifier(static).predict(picture)[0].logits
    torch.testing.assert_close(
        torch.tensor(classifier.predict(picture)[0].logits), torch.tensor(expected), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(UsageError, match=r"a Sequential has no arch, .* supernet\.subnet\(arch\) is a subnet"):
        az.export(supernet.extract(arch), tmp_path / "plain.onnx")  # type: ignore[arg-type]
