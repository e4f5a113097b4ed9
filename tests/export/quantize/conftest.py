from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from alphanet_export.freeze import freeze
from alphanet_export.metadata import open_exported
from alphanet_export.quantize.images import QuantImages, quant_images
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.calibration import calibration_batches
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY
from tests.export.exported import tiny_onnx


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    return FolderSource(write_digits(tmp_path_factory.mktemp("quantize") / "digits") / "val")


@pytest.fixture(scope="session")
def net(digits: FolderSource) -> AlphaNet:
    """Random features with a classifier fitted to them: far more accurate than chance; the first channels are 0."""
    net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10), 0)
    net.pretrained_cfg["label_names"] = tuple(digits.classes)
    preprocessing = input_of(net, net.arch.resolution)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".bn" in f".{name}" or "shortcut" in name:
                parameter[0] = 0
        calibrate(net, calibration_batches(digits, preprocessing))
        pixels, labels = next(evaluation_batches(digits, preprocessing, len(digits)))
        features = net.forward_head(net.forward_features(pixels), pre_logits=True)
        features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        ridge = features.T @ features + 1e-2 * torch.eye(features.shape[1])
        solution = torch.linalg.solve(ridge, features.T @ torch.nn.functional.one_hot(labels, 10).float()).T
        net.classifier.weight.copy_(solution[:, :-1])
        net.classifier.bias.copy_(solution[:, -1])
    return net


@pytest.fixture(scope="session")
def spoiled(net: AlphaNet) -> Callable[..., AlphaNet]:
    """Makes the same function whose named layers int8 destroys: weights that meet only zeros outweigh the others."""

    def spoil(*layers: str) -> AlphaNet:
        other = copy.deepcopy(net)
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                if name.endswith(tuple(f"{layer}.weight" for layer in layers)):
                    parameter[1:, 0] = 1e3
        return other

    return spoil


@pytest.fixture(scope="session")
def images(digits: FolderSource, tmp_path_factory: pytest.TempPathFactory) -> QuantImages:
    path = tmp_path_factory.mktemp("images") / "float.onnx"
    path.write_bytes(tiny_onnx())
    return quant_images(open_exported(path), digits, calibration=32)


@pytest.fixture(scope="session")
def content(net: AlphaNet) -> bytes:
    return onnx_bytes(freeze(net))
