from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alphanet_export.build import open_source
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY, IMAGENET_FAMILY
from alphanet_zoo.zoo.archs import find_arch
from alphanet_zoo.zoo.files import save_net

SMALL = ALPHANET_TINY.smallest


def write_arch(path: Path, spec: object) -> Path:
    path.write_text(json.dumps(spec), "utf-8")
    return path


def test_random_weights_take_any_number_of_classes() -> None:
    source = open_source("random", "alphanet_a0", num_classes=7)
    assert (source.name, source.weights, source.weights_sha256) == ("alphanet_a0", "random", None)
    assert source.net.num_classes == 7 and source.net.calibration == "random"
    assert source.published_top1 is None


def test_a_file_is_named_by_its_name_and_digest(tmp_path: Path) -> None:
    net = fill_live(AlphaNet(IMAGENET_FAMILY[0].arch, num_classes=5))
    digest = save_net(net, tmp_path / "mine.safetensors")
    source = open_source(tmp_path / "mine.safetensors", "alphanet_a0", num_classes=5)
    assert (source.weights, source.weights_sha256) == ("mine.safetensors", digest)
    assert all(torch.equal(t, source.net.state_dict()[name]) for name, t in net.state_dict().items())
    with pytest.raises(UsageError, match="--num-classes is 1000, but the weights have 5 classes"):
        open_source(tmp_path / "mine.safetensors", "alphanet_a0", num_classes=1000)


def test_missing_published_weights_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHANET_HUB_ORG", raising=False)
    with pytest.raises(AlphaNetError, match="not published yet") as caught:
        open_source(None, "alphanet_a5_small")
    assert caught.value.exit_code == 1


def test_subnet_of_a_supernet(tmp_path: Path) -> None:
    supernet = tmp_path / "supernet.safetensors"
    save_net(fill_live(build_supernet(ALPHANET_TINY, 10)), supernet)
    source = open_source(supernet, write_arch(tmp_path / "mine.json", SMALL.to_dict()))
    assert (source.name, source.arch, source.weights) == ("mine", SMALL, "supernet.safetensors")
    assert source.weights_sha256 == sha256_of(supernet) and source.net.supernet
    with pytest.raises(UsageError, match="--num-classes is 3"):
        open_source(supernet, tmp_path / "mine.json", num_classes=3)


def test_a_run_is_a_supernet_once_it_has_ended(tmp_path: Path) -> None:
    run, arch = tmp_path / "run", write_arch(tmp_path / "mine.json", SMALL.to_dict())
    run.mkdir()
    with pytest.raises(UsageError, match="contains neither model.safetensors .* nor config.yaml"):
        open_source(run, arch)
    (run / "config.yaml").write_text("space: alphanet_tiny")
    with pytest.raises(UsageError, match="has not ended.*alphanet export-supernet"):
        open_source(run, arch)
    digest = save_net(fill_live(build_supernet(ALPHANET_TINY, 10)), run / "final" / "model.safetensors")
    source = open_source(run, arch)
    assert (source.weights_sha256, source.weights) == (digest, "model.safetensors") and source.net.supernet


def test_a_front_is_not_taken_for_an_arch(tmp_path: Path) -> None:
    entry = {"arch": SMALL.to_dict(), "macs": 1, "accuracy": 0.5}
    with pytest.raises(
        UsageError,
        match="is a Pareto front of 2 archs; pass one of them, .*front.json#1 to .*#2 .*alphanet search --best",
    ):
        find_arch(write_arch(tmp_path / "front.json", [entry, entry]))


def test_arch_that_the_weights_do_not_hold_is_refused(tmp_path: Path) -> None:
    save_net(fill_live(AlphaNet(SMALL, ALPHANET_TINY, 10)), tmp_path / "small.safetensors")
    largest = write_arch(tmp_path / "largest.json", ALPHANET_TINY.largest.to_dict())
    with pytest.raises(UsageError, match="does not contain the arch largest"):
        open_source(tmp_path / "small.safetensors", largest)
    outside = write_arch(tmp_path / "outside.json", SMALL.to_dict() | {"resolution": 13})
    with pytest.raises(ValueError, match="resolution is 13; the space alphanet_tiny has the choices 12 16"):
        open_source(tmp_path / "small.safetensors", outside)


def test_bad_arch_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        find_arch(tmp_path / "none.json")
    for content in (b"{", b"\xff\xfe\x00", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(AlphaNetError, match="cannot read the arch") as caught:
            find_arch(tmp_path / "bad.json")
        assert caught.value.exit_code == 1
    with pytest.raises(ValueError, match="mapping"):
        find_arch(write_arch(tmp_path / "list.json", [1, 2]))
