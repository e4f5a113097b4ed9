"""Fine-tuning of slimmable networks: a subnet or all of them, with the same classes or with others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import alphanet_zoo as az
from alphanet_zoo.cli.main import main
from alphanet_zoo.slim.network import SlimNet
from alphanet_zoo.slim.supernet import Slimmable
from alphanet_zoo.zoo.built import with_classes
from alphanet_zoo.zoo.open import open_net
from tests.slim.own import MODULE, SETTINGS, current_folder

pytestmark = pytest.mark.filterwarnings("ignore:batch-norm calibration uses all")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of 40 steps on the scanned digits, and three of their classes in the folder ``three``."""
    with current_folder(tmp_path_factory.mktemp("finetune"), "own_network", MODULE) as path:
        assert main(["train", "slimmable_cifar10", *SETTINGS, "output=run", "max_steps=40"]) == 0
        for part in ("train", "val"):
            for name in "012":
                shutil.copytree(path / "run-data" / part / name, path / "three" / part / name)
        yield path / "run"


def finetune(output: str, *settings: str) -> int:
    return main(["train", "finetune", "finetune.weights=run", f"output={output}", "log.progress=false",
                 "sandwich.drop_rate=0", *settings])  # fmt: skip


def digits(*settings: str) -> list[str]:
    return ["data.source=digits", "data.root=null", "data.transform=affine", "optim.epochs=3", *settings]


def accuracy_of(run: str) -> float:
    lines = [json.loads(line) for line in Path(run, "log.jsonl").read_text("utf-8").splitlines()]
    figures = [line["validation"] for line in lines if "validation" in line][-1]
    return float(max(each["accuracy"] for each in figures.values()))


def test_a_subnet_of_a_supernet(run: Path) -> None:
    """It keeps its arch and its classes, and learns; a run that was stopped gives the same weights."""
    space = open_net(run).net.space
    Path("arch.json").write_text(json.dumps(space.smallest.to_dict()), "utf-8")
    assert finetune("subnet", "finetune.arch=arch.json", *digits()) == 0
    net = open_net("subnet").net
    assert isinstance(net, SlimNet) and net.arch == space.smallest and net.calibration == "training"
    assert net.pretrained_cfg["label_names"] == tuple(map(str, range(10)))
    assert accuracy_of("subnet") > 0.7
    assert finetune("stopped", "finetune.arch=smallest", *digits("max_steps=50")) == 0
    assert finetune("stopped", "finetune.arch=smallest", *digits()) == 0
    again = open_net("stopped").net.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in net.state_dict().items())


def test_other_classes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_net(run).net
    assert finetune("three_classes", "finetune.arch=smallest", "data.root=three", "optim.epochs=6") == 0
    after = open_net("three_classes").net
    assert after.num_classes == 3 and after.arch == before.space.smallest
    assert after.pretrained_cfg["label_names"] == ("0", "1", "2") and accuracy_of("three_classes") > 0.8
    assert after.subnet(after.arch).net[-1].out_features == 3
    capsys.readouterr()
    assert main(["export", "three_classes", "-o", "three.onnx"]) == 0
    assert main(["predict", "three/val/1", "--file", "three.onnx"]) == 0
    labels = [line.split(": ")[1].split()[0] for line in capsys.readouterr().out.splitlines() if ".png: " in line]
    assert len(labels) == len(list(Path("three/val/1").iterdir())) and labels.count("1") > 0.8 * len(labels)


def test_all_subnets(run: Path) -> None:
    """The supernet is trained further, with other classes: only its classifier is new."""
    torch.manual_seed(0)
    supernet, renewed = open_net(run).net, with_classes(open_net(run).net, 3)
    old, new = supernet.state_dict(), renewed.state_dict()
    other = [name for name in old if not torch.equal(old[name], new[name])]
    assert len(other) == 2 and all(new[name].shape[0] == 3 for name in other)
    assert finetune("supernet", "finetune.arch=supernet", "data.root=three", "optim.epochs=2") == 0
    net = open_net("supernet").net
    assert isinstance(net, Slimmable) and net.num_classes == 3 and net.space.size == supernet.space.size
    assert accuracy_of("supernet") > 0.8


def test_what_cannot_be_fine_tuned(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for settings, message in (
        (["finetune.arch=smallest", "distributed.sync_bn=true"], "pass distributed.sync_bn=false"),
        (["finetune.arch=smallest", "optim.compile=true"], "pass optim.compile=false"),
        ([], "contains a supernet; pass the subnet to fine-tune"),
    ):
        assert finetune("refused", "data.root=three", *settings) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not Path("refused").exists()
    passed = az.slimmable(open_net(run).net.extract(az.SlimArch(16, (0.5,))), (3, 16, 16))
    with pytest.raises(ValueError, match="passed as a module"):
        with_classes(passed, 3)
