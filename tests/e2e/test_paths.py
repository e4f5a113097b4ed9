"""Everything that writes an arch, a network or a run is accepted by everything that takes one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import alphanet_zoo as az
from alphanet_zoo.cli.main import main
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.zoo.files import load_net
from alphanet_zoo.zoo.open import open_net

TRAIN = ["device=cpu", "validation.every_epochs=0", "log.progress=false", "data.batch_size=32"]


def alphanet(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0, arguments


@dataclass(frozen=True)
class Place:
    """What the commands have written, and images."""

    root: Path
    run: Path
    calibration: tuple[str, ...]

    def __getitem__(self, name: str) -> str:
        return str(self.root / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One output of every command that writes a network, an arch or a run."""
    root = tmp_path_factory.mktemp("paths")
    data = write_digits(root / "data")
    here = Place(root, root / "run", ("--calib-data", str(data / "train"), "--calib-images", "256"))
    alphanet("train", "digits", f"data.root={data}", f"output={here.run}", "max_steps=4", *TRAIN)
    alphanet("export-supernet", here.run, "-o", here["supernet.safetensors"])
    search = [
        "search",
        "--supernet",
        here.run,
        "--data",
        data / "val",
        *here.calibration,
        "--limit",
        20,
        "--evaluations",
        4,
    ]
    alphanet(*search, "-o", here["front.json"], "--best", here["best.json"])
    alphanet(*search, "-o", here["front.csv"])
    alphanet(
        "export", here.run, "--arch", "smallest", *here.calibration, "--name", "small", "-o", here["small.safetensors"]
    )
    alphanet("train", "digits", f"data.root={data}", f"output={root / 'tuned'}", "max_steps=2", *TRAIN,
             f"finetune.weights={here['small.safetensors']}")  # fmt: skip
    load_net(here["small.safetensors"]).save_pretrained(here["folder"])
    return here


@pytest.fixture(scope="module")
def described(place: Place, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of ``alphanet arch --json``."""
    path = tmp_path_factory.mktemp("described") / "described.json"
    found = az.ArchSpec.from_dict(json.loads(Path(place["best.json"]).read_text()))
    path.write_text(json.dumps({"name": "x", "arch": found.to_dict(), "space": "alphanet_tiny", "num_classes": 10}))
    return str(path)


SUPERNETS = ["run", "supernet.safetensors"]
REFERENCES = ["supernet.safetensors", "small.safetensors", "folder", "tuned"]
STATIC = ["small.safetensors", "folder", "tuned"]
ARCHS = ["best.json", "front.json#1", "front.csv#1", "small.safetensors", "folder", "tuned", "smallest", "described"]

READERS: dict[str, Callable[[str], az.AlphaNet]] = {
    "load_net": load_net,
    "open_net": lambda source: open_net(source).net,
    "from_pretrained": az.AlphaNet.from_pretrained,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("written", [*SUPERNETS, *STATIC])
def test_every_network_is_loaded_by_every_function(place: Place, written: str, reader: str) -> None:
    net = READERS[reader](place[written])
    assert net.space == az.ALPHANET_TINY and net.supernet == (written in SUPERNETS) and not net.training


@pytest.mark.parametrize("flag", [[], ["--weights"], ["--supernet"]], ids=lambda flag: flag[0] if flag else "SOURCE")
@pytest.mark.parametrize("written", [*SUPERNETS, *STATIC])
def test_every_network_is_exported_however_it_is_passed(
    place: Place, written: str, flag: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, export = tmp_path / "net.safetensors", ["export", *flag, place[written], "--skip-verify", "-o"]
    arch = ["--arch", place["front.json"] + "#1", *place.calibration] if written in SUPERNETS else []
    alphanet(*export, file, *arch)
    assert not load_net(file).supernet and load_net(file).calibration is not None
    if written in SUPERNETS:
        assert main([*export, str(file)]) == 2
        assert "is a supernet; choose the subnet to export" in capsys.readouterr().err


@pytest.mark.parametrize("written", ARCHS)
def test_every_arch_is_read_by_every_command(
    place: Place, described: str, written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = described if written == "described" else written if written == "smallest" else place[written]
    alphanet("arch", arch, "--json", "--space", "alphanet_tiny", "--num-classes", 10)
    shown = json.loads(capsys.readouterr().out)
    file = tmp_path / "net.safetensors"
    alphanet("export", place.run, "--arch", arch, *place.calibration, "--skip-verify", "-o", file)
    assert load_net(file).arch.to_dict() == shown["arch"]
    assert f"{shown['macs'] / 1e6:.2f} M MACs ({2 * shown['macs'] / 1e6:.2f} M FLOPs)" in capsys.readouterr().out


@pytest.mark.parametrize("written", ["run", *(pytest.param(each, marks=pytest.mark.slow) for each in REFERENCES)])
def test_every_network_is_a_reference(place: Place, written: str, tmp_path: Path) -> None:
    file, source = (
        tmp_path / "net.onnx",
        [written] if written in STATIC else [written, "--arch", "smallest", *place.calibration],
    )
    alphanet("export", place[source[0]], *source[1:], "--skip-verify", "-o", file)
    again = place.calibration[:2] if written in SUPERNETS else []
    alphanet("verify", file, "--reference", place[written], *again, "--seconds", 0.1, "--repeats", 2, "--starts", 1)


@pytest.mark.parametrize("written", SUPERNETS)
def test_every_supernet_is_searched(place: Place, written: str, tmp_path: Path) -> None:
    alphanet("search", "--supernet", place[written], "--data", place["data/val"], *place.calibration, "--limit", 10,
             "--evaluations", 2, "-o", tmp_path / "front.json")  # fmt: skip


@pytest.mark.parametrize("written", STATIC)
def test_a_static_network_is_not_searched(
    place: Place, written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "--supernet", place[written], "--data", place["data/val"], *place.calibration, "-o"]
    assert main([*words, str(tmp_path / "front.json")]) == 2
    assert f"alphanet export {place[written]}" in capsys.readouterr().err


@pytest.mark.parametrize("run", ["run", "tuned"])
def test_every_run_is_resumed(place: Place, run: str) -> None:
    alphanet("resume", place[run])


@pytest.mark.slow
def test_weights_are_verified_and_exported_as_they_are(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibrated weights need no images any more, keep their name, and compute the same in every format."""
    alphanet("export", place["small.safetensors"], "--format", "onnx,pt2", "-o", f"{tmp_path}/")
    assert {path.name for path in tmp_path.iterdir()} >= {"small.onnx", "small.pt2"}
    capsys.readouterr()
    alphanet("verify", place["small.safetensors"], "--data", place["data/val"], "--json", tmp_path / "report.json",
             "--seconds", 0.1, "--repeats", 2, "--starts", 1)  # fmt: skip
    alphanet("verify", tmp_path / "small.onnx", "--data", place["data/val"], "--seconds", 0.1, "--repeats", 2,
             "--starts", 1)  # fmt: skip
    weights, file = (json.loads((tmp_path / name).read_text()) for name in ("report.json", "small.verify.json"))
    assert weights["accuracy"] == file["accuracy"] and weights["name"] == file["name"] == "small"


@pytest.mark.slow
def test_a_supernet_becomes_a_named_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a supernet of the ImageNet space to ``create_model``, by command and in Python."""
    from alphanet_zoo.nn.init import fill_live
    from alphanet_zoo.zoo.files import save_net
    from tests.export.exported import write_images

    images = write_images(tmp_path / "images")
    save_net(fill_live(az.build_supernet(num_classes=10)), supernet := tmp_path / "supernet.safetensors")
    weights = tmp_path / "a0.safetensors"
    alphanet("export", "--model", "alphanet_a0", "--supernet", supernet, "--calib-data", images, "-o", weights)
    net = az.create_model("alphanet_a0", weights=weights)
    assert isinstance(net.calibration, dict) and net.calibration["images"] == 30
    assert net.pretrained_cfg["architecture"] == net.pretrained_cfg["name"] == "alphanet_a0"
    again = az.export(supernet, tmp_path / "again.safetensors", arch="alphanet_a0", calibration=images)
    assert again.name == "alphanet_a0" and again.macs == az.count_macs(net.arch, num_classes=10)
    loaded = load_net(again.path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(AlphaNetError, match="alphanet export --model alphanet_a0 --supernet .* --format safetensors"):
        az.create_model("alphanet_a0", weights=supernet)
    capsys.readouterr()
    alphanet("export", "alphanet_a0", "--weights", weights, "--skip-verify", "-o", tmp_path / "a0.onnx")
    alphanet("verify", tmp_path / "a0.onnx", "--reference", "alphanet_a0", "--weights", supernet,
             "--calib-data", images, "--seconds", 0.1, "--repeats", 2, "--starts", 1)  # fmt: skip
