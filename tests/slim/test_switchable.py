"""Several subnets with one copy of the weights, and their file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import alphanet_zoo as az
from alphanet_export.onnx_model import open_session
from alphanet_export.switchable import run_arch
from alphanet_zoo.errors import ParityError, UsageError
from alphanet_zoo.slim.network import SlimNet
from alphanet_zoo.slim.supernet import Slimmable


class Branches(nn.Module):
    """A network with a concatenation, after which the kept channels are not adjacent."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.left, self.right = (nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32)) for _ in range(2))
        self.join, self.head = nn.Conv2d(64, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.join(torch.cat([self.left(x), self.right(x)], 1)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def supernet() -> Slimmable:
    torch.manual_seed(0)
    net = az.slimmable(Branches(), (3, 16, 16), resolutions=(12, 16))
    net.pretrained_cfg["label_names"] = tuple("abcde")
    return net


def batches() -> list[Tensor]:
    return list(torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def switchable(supernet: Slimmable) -> az.Switchable:
    space = supernet.space
    return az.Switchable(supernet, {"small": space.smallest, "half": space.at(0.5), "full": space.largest})


def calibrated(supernet: Slimmable, arch: az.SlimArch) -> SlimNet:
    static = supernet.subnet(arch)
    az.calibrate(static, batches())
    return static


def test_each_arch_equals_its_subnet(supernet: Slimmable, switchable: az.Switchable) -> None:
    images = torch.randn(4, 3, 16, 16)
    with pytest.raises(UsageError, match=r"the arch small has no batch-norm statistics; call calibrate\(batches\)"):
        switchable(images)
    switchable.calibrate(batches())
    assert switchable.active == "small"
    for name, arch in switchable.archs.items():
        switchable.switch(name)
        torch.testing.assert_close(switchable(images), calibrated(supernet, arch)(images).detach())


def test_statistics_can_be_taken_from_a_subnet(supernet: Slimmable, switchable: az.Switchable) -> None:
    static, images = calibrated(supernet, supernet.space.at(0.5)), torch.randn(4, 3, 16, 16)
    switchable.take_statistics(static)
    switchable.switch("half")
    torch.testing.assert_close(switchable(images), static(images).detach())
    with pytest.raises(UsageError, match="no arch called None is"):
        switchable.take_statistics(supernet.subnet(supernet.space.at(0.75)))
    with pytest.raises(UsageError, match="calibrate it first"):
        switchable.take_statistics(supernet.subnet(supernet.space.at(0.5)))


def test_the_weights_are_stored_once(supernet: Slimmable, switchable: az.Switchable) -> None:
    """A later update of the supernet changes all archs. Only channels after a concatenation are copied."""
    shared = {name: tensor.untyped_storage().data_ptr() for name, tensor in supernet.net.named_parameters()}
    for name in switchable.archs:
        for key, tensor in switchable.subnet(name).net.named_parameters():
            same = tensor.untyped_storage().data_ptr() == shared[key]
            assert same == (key != "join.weight" or name == "full"), (name, key)
            assert not tensor.requires_grad
    sizes = [switchable.subnet(name).net.join.weight.nbytes for name in ("small", "half")]
    assert switchable.copied_bytes == sum(sizes) > 0
    switchable.calibrate(batches())
    images = torch.randn(4, 3, 16, 16)
    before = switchable(images)
    with torch.no_grad():
        supernet.net.head.weight.mul_(2)
        supernet.net.head.bias.mul_(2)
    torch.testing.assert_close(switchable(images), 2 * before)
    own = switchable.subnet("half").subnet(switchable.archs["half"])
    assert own.net.head.weight.untyped_storage().data_ptr() != shared["head.weight"]


def test_one_file_runs_every_arch(supernet: Slimmable, switchable: az.Switchable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no batch-norm statistics"):
        switchable.export(tmp_path / "switchable.onnx")
    switchable.calibrate(batches())
    written = switchable.export(tmp_path / "switchable.onnx", dynamic_batch=True)
    assert written.archs == ("small", "half", "full") and written.size == written.path.stat().st_size
    assert all(parity.holds and parity.max_relative_error < 1e-4 for parity in written.parities.values())
    session, images = open_session(written.path), torch.randn(4, 3, 16, 16)
    for position, name in enumerate(written.archs):
        logits = run_arch(session, position, images.numpy())
        expected = switchable.subnet(name)(images).detach()
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)
    proto = onnx.load(written.path)
    stored = [tensor.name for tensor in proto.graph.initializer]
    for name, tensor in supernet.net.named_parameters():
        if tensor.dim() > 1:
            assert [each for each in stored if each.endswith(f"net.{name}")] == [f"net.{name}"], name
    entries = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert entries["alphanet.labels"] == list("abcde")
    assert [entry["name"] for entry in entries["alphanet.switchable"]] == ["small", "half", "full"]
    archs = [az.SlimArch.from_dict(entry["arch"]) for entry in entries["alphanet.switchable"]]
    assert archs == list(switchable.archs.values())
    assert entries["alphanet.preprocessing"]["input_size"] == 16


def test_a_file_that_differs_is_not_written(
    supernet: Slimmable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file computes something else than the reference, by one per cent."""
    import alphanet_export.switchable as module

    switchable = az.Switchable(supernet, [supernet.space.smallest])
    switchable.calibrate(batches())
    measure = module.torch_logits
    monkeypatch.setattr(module, "torch_logits", lambda net: lambda images: measure(net)(images) * np.float32(1.01))
    with pytest.raises(ParityError, match="does not compute what PyTorch computes"):
        switchable.export(tmp_path / "switchable.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments(supernet: Slimmable, switchable: az.Switchable) -> None:
    with pytest.raises(UsageError, match="supernet is a Branches; pass what az.slimmable"):
        az.Switchable(Branches(), [supernet.space.largest])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="archs is empty"):
        az.Switchable(supernet, [])
    with pytest.raises(UsageError, match="no arch is called 'tiny'; the archs are small, half, full"):
        switchable.switch("tiny")
    assert list(az.Switchable(supernet, [supernet.space.largest]).archs) == ["0"]
