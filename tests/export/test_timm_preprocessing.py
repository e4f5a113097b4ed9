"""timm's preprocessing of a subnet and the exported file compute the same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import alphanet_zoo as az
from alphanet_export.freeze import freeze
from alphanet_export.metadata import open_exported
from alphanet_export.runtimes.runtime import open_runtime
from alphanet_export.write import write_export
from alphanet_zoo.data.images import read_image
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.zoo.files import load_net, save_net


def photo(path: Path, width: int, height: int) -> Path:
    """A picture with gradients, edges and noise."""
    generator = np.random.default_rng(width)
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 9) * np.cos(y / 6), np.sign(np.sin(x * y / 300)), generator.standard_normal((height, width))]
    Image.fromarray((127.5 + 80 * np.stack(channels, -1)).clip(0, 255).astype(np.uint8)).save(path)
    return path


def timms_pixels(path: Path, net: az.AlphaNet, img_size: int | None = None) -> torch.Tensor:
    """The input of a network ``(1, 3, S, S)``, as a user of timm prepares it."""
    config = timm.data.resolve_data_config({"img_size": img_size} if img_size else {}, model=net)
    transform = timm.data.create_transform(**config, is_training=False)
    with Image.open(path) as image:
        pixels: torch.Tensor = transform(image.convert("RGB"))
    return pixels[None]


SIZES = [(50, 70), (70, 50), (33, 33), (13, 90), (12, 12), (201, 150)]


@pytest.mark.parametrize("img_size", [None, 24])
def test_a_subnet_of_a_supernet(tmp_path: Path, img_size: int | None) -> None:
    supernet = fill_live(az.build_supernet(az.ALPHANET_TINY, num_classes=10))
    subnet = az.calibrate(supernet.extract(az.ALPHANET_TINY.smallest), [torch.randn(16, 3, 12, 12)])
    write_export(freeze(subnet, img_size=img_size), onnx=tmp_path / "subnet.onnx", verify=False)
    exported = open_exported(tmp_path / "subnet.onnx")
    save_net(subnet, tmp_path / "subnet.safetensors")
    subnet.save_pretrained(tmp_path / "folder")
    loaded = [load_net(tmp_path / "subnet.safetensors"), az.AlphaNet.from_pretrained(tmp_path / "folder")]
    for net in (subnet, *loaded):
        assert net.pretrained_cfg["input_size"] == (3, 12, 12) and exported.preprocessing == input_of(net, img_size)
    with open_runtime(tmp_path / "subnet.onnx") as runtime, torch.no_grad():
        for width, height in SIZES:
            path = photo(tmp_path / "photo.png", width, height)
            pixels = timms_pixels(path, subnet, img_size)
            assert tuple(pixels.shape[2:]) == (exported.input_size,) * 2
            ours = exported.preprocessing(read_image(path))[None]
            torch.testing.assert_close(pixels, ours, rtol=0, atol=1e-6)
            logits = runtime.infer(ours.numpy())
            for net in (subnet, *loaded):
                np.testing.assert_allclose(net(pixels).numpy(), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["alphanet_a0", "alphanet_a4", "alphanet_a6"])
def test_the_published_archs(name: str, tmp_path: Path) -> None:
    net = az.create_model(name)
    for width, height in ((500, 375), (300, 401)):
        path = photo(tmp_path / "photo.png", width, height)
        for img_size in (None, 224):
            expected = input_of(net, img_size)(read_image(path))[None]
            torch.testing.assert_close(timms_pixels(path, net, img_size), expected, rtol=0, atol=1e-6)
