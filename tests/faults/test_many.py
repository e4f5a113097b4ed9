"""Many at once: networks that are created, and one network that computes, in several threads and processes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import alphanet_zoo as az
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.tensor_file import tensors_sha256
from alphanet_zoo.zoo.local import models_folder, write_manifest
from tests.faults.dying import ENVIRONMENT

NAME = "alphanet_c10_s"
AT_ONCE = 16


def digest_of(name: str, weights: str | None = None) -> str:
    """The digest of the tensors of a network that is created by name."""
    return tensors_sha256(az.create_model(name, pretrained=True).state_dict())


def test_sixteen_threads_create_the_same_network() -> None:
    alone = digest_of(NAME)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(digest_of, [NAME] * AT_ONCE)) == [alone] * AT_ONCE


CREATE = """
import sys
import alphanet_zoo as az
from alphanet_zoo.tensor_file import tensors_sha256
print(tensors_sha256(az.create_model(sys.argv[1], pretrained=True).state_dict()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, "alphanet_a0"], ids=["included", "local cache"])
def test_sixteen_processes_create_the_same_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHANET_HOME", str(tmp_path))
    if name != NAME:
        net = fill_live(az.create_model(name, pretrained=False), seed=1).eval()
        net.calibration = "training"
        net.save_pretrained(models_folder() / name)
        write_manifest(models_folder() / name, {"top1": []})
    environment = {**ENVIRONMENT, "ALPHANET_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", CREATE, name], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(AT_ONCE)
    ]
    printed = [process.communicate(timeout=280)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0] * AT_ONCE
    assert printed == [digest_of(name)] * AT_ONCE


@pytest.mark.parametrize("supernet", [False, True], ids=["subnet", "supernet"])
def test_a_network_that_several_threads_use_gives_the_logits_that_it_gives_alone(supernet: bool) -> None:
    net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10), seed=1)
    if supernet:
        net = fill_live(az.build_supernet(ALPHANET_TINY, 10), seed=1)
    net.calibration = "training"
    net.eval()
    images = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(AT_ONCE)]

    @torch.inference_mode()
    def logits(image: torch.Tensor) -> torch.Tensor:
        return net(image)

    alone = [logits(image) for image in images]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for together in pool.map(lambda _: list(pool_free(logits, images)), range(4)):
            assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(alone, pool.map(logits, images), strict=True))


def pool_free(call, images):  # type: ignore[no-untyped-def]
    """The results of a call, one after the other."""
    return map(call, images)
