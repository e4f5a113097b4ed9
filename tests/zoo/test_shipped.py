"""A family that comes with its weights: written, and then there by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from huggingface_hub import ModelCard

import alphanet_zoo as az
from alphanet_zoo.cli.arguments import existing_network
from alphanet_zoo.cli.export import main as export
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY
from alphanet_zoo.train.build import named_arch
from alphanet_zoo.zoo import families, shipped
from alphanet_zoo.zoo.files import load_net, save_net
from alphanet_zoo.zoo.open import open_net
from alphanet_zoo.zoo.registry import create_model
from alphanet_zoo.zoo.select import select_member
from alphanet_zoo.zoo.shipped import SIZE_LIMIT, write_family

NAMES = [f"alphanet_c10_{size}" for size in ("xs", "s", "m", "l", "xl")]
TOP1 = {name: 90.0 + i for i, name in enumerate(NAMES)}
TOLD = {"license": "apache-2.0", "description": "random weights for a test"}
CLASSES = tuple("abcdefghij")


def archs() -> list[ArchSpec]:
    """Five archs from the smallest to the largest."""
    low, high = TINY.smallest.scalars, TINY.largest.scalars
    scalars = [[h if i % 5 < step else v for i, (v, h) in enumerate(zip(low, high, strict=True))] for step in range(6)]
    return [ArchSpec.from_scalars(row) for row in (*scalars[:4], scalars[5])]


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> AlphaNet:
    """A supernet with random weights, rounded."""
    net = fill_live(build_supernet(TINY, 10))
    net.calibration = None
    net.pretrained_cfg |= {"crop_pct": 1.0, "label_names": CLASSES}
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    save_net(net, path, half=True)
    return load_net(path)


def calibrated(supernet: AlphaNet) -> dict[str, AlphaNet]:
    images = [torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    return {name: calibrate(supernet.extract(arch), images) for name, arch in zip(NAMES, archs(), strict=True)}


@pytest.fixture(scope="module")
def members(supernet: AlphaNet) -> dict[str, AlphaNet]:
    return calibrated(supernet)


@pytest.fixture(scope="module")
def written(supernet: AlphaNet, members: dict[str, AlphaNet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's files."""
    return write_family(tmp_path_factory.mktemp("made") / "new", "cifar10", supernet, members, TOP1, **TOLD).folder


@pytest.fixture
def folder(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The family, where the package looks for one."""
    shutil.copytree(written, tmp_path / "weights")
    monkeypatch.setattr(families, "FOLDER", tmp_path / "weights")
    monkeypatch.setenv("ALPHANET_HUB_ORG", "nobody/asks")
    return tmp_path / "weights"


def test_the_included_family_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    family = families.shipped_family()
    assert family is not None and [member.name for member in family.members] == NAMES and family.license == "apache-2.0"
    assert sum(path.stat().st_size for path in family.folder.iterdir()) < SIZE_LIMIT
    assert [member.top1 for member in family.members if member.top1 is not None and member.top1 > 85.0]
    for member in family.members:
        net = create_model(member.name, pretrained=True)
        assert not net.training and isinstance(net.calibration, dict) and net.pretrained_cfg["label_names"][3] == "cat"
        flat = torch.zeros(1, 3, 32, 32)
        assert net(flat).shape == (1, 10) and net(flat).isfinite().all()


def test_without_the_files_there_are_no_such_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "supernet.safetensors").write_bytes(b"alone")
    monkeypatch.setattr(families, "FOLDER", tmp_path)
    assert az.list_models() == az.list_models(family="imagenet")
    with pytest.raises(UsageError, match="unknown model 'alphanet_c10_m'"):
        create_model("alphanet_c10_m", pretrained=True)
    with pytest.raises(UsageError, match="unknown family 'cifar10'"):
        az.list_models(family="cifar10")


def test_with_them_the_models_are_there_to_the_bit_and_offline(folder: Path, members: dict[str, AlphaNet]) -> None:
    assert az.list_models(family="cifar10") == az.list_models("*c10*") == az.list_models(pretrained=True) == NAMES
    assert sorted(path.name for path in folder.iterdir()) == [
        "family.json", "statistics.safetensors", "supernet.safetensors"
    ]  # fmt: skip
    for name, measured in members.items():
        net = create_model(name, pretrained=True)
        assert net.state_dict().keys() == measured.state_dict().keys() and not net.training
        assert all(torch.equal(t, measured.state_dict()[key]) for key, t in net.state_dict().items())
        assert net.calibration == measured.calibration and not net.supernet
        cfg, side = net.pretrained_cfg, net.arch.resolution
        assert (cfg["architecture"], net.top1, cfg["license"]) == (name, TOP1[name], "apache-2.0")
        assert (cfg["input_size"], cfg["crop_pct"], cfg["label_names"]) == ((3, side, side), 1.0, CLASSES)
    told = json.loads((folder / "family.json").read_text())
    assert [entry["macs"] for entry in told["members"]] == [count_macs(arch, TINY, 10) for arch in archs()]
    assert load_net(folder / "supernet.safetensors").supernet


def test_the_included_supernet_has_a_name(
    folder: Path, supernet: AlphaNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    family = families.shipped_family()
    assert family is not None
    name = f"{family.name}_supernet"
    opened = open_net(name)
    assert opened.net.supernet and opened.source == name and opened.sha256 == family.sha256[families.SUPERNET_FILE]
    for key, tensor in opened.net.state_dict().items():
        assert torch.equal(tensor, supernet.state_dict()[key])
    assert name not in az.list_models() and existing_network(name) == Path(name)
    with pytest.raises(UsageError, match="does not exist"):
        existing_network("no_supernet")
    (tmp_path / name).write_bytes(b"a file of that name comes first")
    with pytest.raises(AlphaNetError):
        open_net(name)
    shutil.rmtree(folder)
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match="neither a model's name"):
        open_net(name)


def test_other_classes_and_other_weights(folder: Path, members: dict[str, AlphaNet], tmp_path: Path) -> None:
    net = create_model("alphanet_c10_s", pretrained=True, num_classes=3)
    assert (net.num_classes, net.top1, net.pretrained_cfg["label_names"]) == (3, None, None)
    fresh = create_model("alphanet_c10_s")
    assert fresh.training and fresh.num_classes == 10 and fresh.pretrained_cfg["crop_pct"] == 1.0
    assert create_model("alphanet_c10_s", weights="random").calibration == "random"
    save_net(members["alphanet_c10_s"], tmp_path / "s.safetensors")
    assert create_model("alphanet_c10_s", weights=tmp_path / "s.safetensors").arch == archs()[1]
    with pytest.raises(AlphaNetError, match="contains alphanet_c10_s .*, not alphanet_c10_m "):
        create_model("alphanet_c10_m", weights=tmp_path / "s.safetensors")
    with pytest.raises(UsageError, match="revision='main' requires weights on the Hub"):
        create_model("alphanet_c10_s", pretrained=True, revision="main")
    assert named_arch("alphanet_c10_s", TINY) == archs()[1]


def test_a_member_is_exported_by_its_name_and_by_a_budget(folder: Path, tmp_path: Path) -> None:
    assert select_member("cifar10", {"macs": (count_macs(archs()[1], TINY, 10), 1.0)}).member.name == "alphanet_c10_s"
    assert export(["--model", "alphanet_c10_m", "-o", str(tmp_path / "model.onnx")]) == 0
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(properties["alphanet.arch"]) == archs()[2].to_dict()


@pytest.mark.parametrize("file", ["supernet.safetensors", "statistics.safetensors"])
def test_files_that_are_missing_or_changed_are_never_used(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(
        AlphaNetError, match=rf"{file}, which alphanet_c10_xs requires, has changed \(its SHA-256 differs\)"
    ):
        create_model("alphanet_c10_xs", pretrained=True)
    (folder / file).unlink()
    with pytest.raises(AlphaNetError, match=f"{file}, which alphanet_c10_xs requires, is missing"):
        create_model("alphanet_c10_xs", pretrained=True)


def test_a_damaged_description_says_so(folder: Path) -> None:
    (folder / "family.json").write_text('{"family": "cifar10"}')
    with pytest.raises(AlphaNetError, match=r"family.json is damaged \(KeyError: 'space'\)"):
        az.list_models()


def test_members_that_the_files_do_not_reproduce_are_not_written(
    folder: Path, supernet: AlphaNet, members: dict[str, AlphaNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    unrounded = calibrated(fill_live(build_supernet(TINY, 10), seed=5))
    with pytest.raises(AlphaNetError, match="alphanet_c10_xs is not a calibrated subnet of the rounded supernet"):
        write_family(folder, "cifar10", supernet, unrounded, TOP1, **TOLD)
    with pytest.raises(ValueError, match="pass a supernet .* and the top-1 of each"):
        write_family(folder, "cifar10", supernet, members, {"alphanet_c10_xs": 90.0}, **TOLD)
    monkeypatch.setattr(shipped, "SIZE_LIMIT", sum(map(len, before.values())))
    with pytest.raises(AlphaNetError, match="bytes; the limit is"):
        write_family(folder, "cifar10", supernet, members, TOP1, **TOLD)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


REGISTERED = """
import sys
from pathlib import Path
from alphanet_zoo.zoo import families
families.FOLDER = Path(sys.argv[1])
import alphanet_zoo.timm, timm, torch
names = timm.list_models("alphanet_c10*")
assert names == timm.list_models("alphanet*", pretrained=True) == sorted(names) and len(names) == 5, names
net = timm.create_model("alphanet_c10_m", pretrained=True)
assert net.training and net.top1 == 92.0 and net.pretrained_cfg["license"] == "apache-2.0"
data = timm.data.resolve_model_data_config(net)
assert data["crop_pct"] == 1.0 and data["input_size"][1] == net.arch.resolution, data
assert timm.create_model("alphanet_c10_m", pretrained=True, num_classes=3).top1 is None
net.save_pretrained(sys.argv[2])
again = timm.create_model("local-dir:" + sys.argv[2], pretrained=True)
assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))
assert (again.top1, again.pretrained_cfg["label_names"]) == (92.0, net.pretrained_cfg["label_names"])
(families.FOLDER / "statistics.safetensors").write_bytes(b"changed")
try:
    timm.create_model("alphanet_c10_m", pretrained=True)
except Exception as error:
    assert "its SHA-256 differs" in str(error), error
else:
    raise AssertionError("changed weights were used")
"""


def test_the_family_in_timm_and_its_card(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", REGISTERED, str(folder), str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    net = az.AlphaNet.from_pretrained(tmp_path / "saved")
    net.save_pretrained(tmp_path / "again")
    card = ModelCard.load(tmp_path / "again" / "README.md")
    assert card.data.library_name == "timm" and card.data.pipeline_tag == "image-classification"
    assert card.data.license == "apache-2.0" and {"timm", "image-classification"} <= set(card.data.tags)
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("CIFAR-10", "accuracy", 92.0)
    assert "top-1 92.00 % on CIFAR-10" in card.text and "local-dir:again" in card.text
