from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from alphanet_export.freeze import freeze
from alphanet_export.metadata import open_exported
from alphanet_export.quantize.images import quant_images
from alphanet_export.quantize.layers import find_layers
from alphanet_export.quantize.writing import write_int8
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.errors import MissingDependencyError
from tests.export.exported import tiny_net, tiny_onnx

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed (pip install 'alphanet-zoo[openvino]')")
pytest.importorskip("nncf", reason="NNCF is not installed (pip install 'alphanet-zoo[openvino]')")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    return FolderSource(write_digits(tmp_path_factory.mktemp("nncf") / "digits") / "val")


def test_layers_are_int8_one_by_one(digits: FolderSource, tmp_path: Path) -> None:
    from alphanet_export.quantize.nncf_openvino import NncfOpenVino

    (tmp_path / "plain.onnx").write_bytes(tiny_onnx())
    images = quant_images(open_exported(tmp_path / "plain.onnx"), digits, calibration=16)
    frozen = freeze(tiny_net())
    layers = find_layers(onnx.load_model_from_string(onnx_bytes(frozen)))
    tools = NncfOpenVino(frozen, layers, images.calibration)
    everything, some = [layer.name for layer in layers], images.held_out[:8]
    plain, whole = tools.runner(None)(some), tools.build("min-max", everything)
    assert np.array_equal(tools.runner(tools.build("min-max", []))(some), plain)
    assert int8_weights(whole) == len(layers)
    assert int8_weights(tools.build("min-max", ["conv_stem", "classifier"])) == 2
    difference = np.abs(tools.runner(whole)(some) - plain).max() / np.abs(plain).max()
    assert 0 < difference < 0.3
    tools.write(whole, tmp_path / "int8.xml", {"alphanet.quantization": json.dumps({"precision": "int8"})})
    model = openvino.Core().read_model(tmp_path / "int8.xml")
    assert int8_weights(model) == len(layers)
    assert json.loads(model.get_rt_info(["alphanet", "quantization"]).astype(str)) == {"precision": "int8"}


def int8_weights(model: object) -> int:
    """How many constants of 8-bit integers a model holds."""
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]  # type: ignore[attr-defined]
    return sum(node.get_element_type().get_type_name() in ("i8", "u8") and node.data.ndim > 1 for node in constants)


def test_a_missing_package_is_told_with_its_pip_line(
    digits: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(MissingDependencyError, match=r"alphanet-zoo\[openvino\]"):
        write_int8(freeze(tiny_net()), digits, openvino=tmp_path / "int8.xml")
    assert not list(tmp_path.iterdir())
