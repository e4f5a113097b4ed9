"""Archs by name and in files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.search.front import write_front
from alphanet_zoo.space.cost import count_macs, macs_text
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY, IMAGENET_FAMILY
from alphanet_zoo.zoo.archs import find_arch, read_front
from alphanet_zoo.zoo.files import save_net

SMALL, LARGE = ALPHANET_TINY.smallest, ALPHANET_TINY.largest


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_names() -> None:
    found = find_arch("alphanet_a5_small")
    assert (found.name, found.space, found.num_classes) == ("alphanet_a5", ALPHANET, 1000)
    assert found.member in IMAGENET_FAMILY and found.arch == found.member.arch
    assert find_arch("largest", ALPHANET_TINY).arch == LARGE
    with pytest.raises(UsageError, match="pass the network or the space"):
        find_arch("largest")
    with pytest.raises(UsageError, match="did you mean alphanet_a4"):
        find_arch("alphanet_a44")
    with pytest.raises(UsageError, match="no such file or model: 'nothing'; pass"):
        find_arch("nothing")


def test_files(tmp_path: Path) -> None:
    plain = find_arch(written(tmp_path / "plain.json", SMALL.to_dict()))
    assert (plain.name, plain.arch, plain.space, plain.num_classes) == ("plain", SMALL, ALPHANET_TINY, None)
    described = {"arch": SMALL.to_dict(), "space": ALPHANET_TINY.to_dict() | {"name": "own"}, "num_classes": 7}
    found = find_arch(written(tmp_path / "own.json", described))
    assert (found.space.name, found.num_classes) == ("own", 7)
    with pytest.raises(UsageError, match="unknown space 'nowhere'"):
        find_arch(written(tmp_path / "bad.json", described | {"space": "nowhere"}))
    with pytest.raises(UsageError, match="remove #1"):
        find_arch(f"{tmp_path / 'plain.json'}#1")


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_entries_of_a_front(ending: str, tmp_path: Path) -> None:
    front = tmp_path / f"front.{ending}"
    entries = [{"arch": arch.to_dict(), "macs": 1, "accuracy": 0.5, "front": True} for arch in (SMALL, LARGE)]
    write_front(front, entries)
    assert read_front(front) == entries
    found = find_arch(f"{front}#2")
    assert (found.name, found.arch) == ("front-2", LARGE)
    for wrong in (front, f"{front}#0", f"{front}#3"):
        with pytest.raises(UsageError, match="is a Pareto front of 2 archs"):
            find_arch(wrong)
    front.write_text("arch\n{")
    with pytest.raises(AlphaNetError, match="cannot read the"):
        find_arch(f"{front}#1")


def test_static_networks(tmp_path: Path) -> None:
    save_net(AlphaNet(SMALL, ALPHANET_TINY, 7), tmp_path / "net.safetensors")
    found = find_arch(tmp_path / "net.safetensors")
    assert (found.name, found.arch, found.space, found.num_classes) == ("net", SMALL, ALPHANET_TINY, 7)
    save_net(build_supernet(ALPHANET_TINY, 7), tmp_path / "super.safetensors")
    with pytest.raises(UsageError, match="contains many archs"):
        find_arch(tmp_path / "super.safetensors")


def test_finding_a_name_loads_no_torch() -> None:
    script = "import sys; from alphanet_zoo.zoo.archs import find_arch; find_arch('alphanet_a4'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()


def test_costs_are_macs_and_twice_as_many_flops() -> None:
    assert macs_text(444e6, flops=True) == "444 M MACs (888 M FLOPs)"
    assert macs_text(443_531_744, flops=True) == "443.53 M MACs (887.06 M FLOPs)"
    assert macs_text(5000) == "5000 MACs"


def test_pytorchs_counter_counts_two_flops_per_mac() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    net = AlphaNet(SMALL, ALPHANET_TINY, 10).eval()
    net.calibration = "random"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 12, 12))
    assert counter.get_total_flops() == 2 * count_macs(SMALL, ALPHANET_TINY, 10)
