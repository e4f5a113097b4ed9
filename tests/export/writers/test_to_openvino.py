from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from alphanet_export.freeze import freeze
from alphanet_export.writers.to_openvino import openvino_model, write_openvino
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def net() -> AlphaNet:
    return fill_live(AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10)).eval()


def operators(model: Any) -> Counter[str]:
    return Counter(operation.get_type_name() for operation in model.get_ops())


def test_silu_and_hard_sigmoid_are_single_operators(net: AlphaNet) -> None:
    found = operators(openvino_model(freeze(net)))
    assert found["Swish"] == 17 and found["HSigmoid"] == 3
    assert not found["Sigmoid"] and not found["HardSigmoid"] and not found["Convert"]


def test_runtime_fuses_swish_and_keeps_one_layout(net: AlphaNet) -> None:
    compiled = openvino.compile_model(openvino_model(freeze(net)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = Counter(str(each.get_rt_info()["layerType"].value) for each in compiled.get_runtime_model().get_ops())
    assert not kinds["Swish"] and not kinds["Math"], "Swish must be part of a convolution, HSigmoid an Eltwise"
    assert kinds["Reorder"] <= 4


def test_weights_are_float32_and_names_are_ours(net: AlphaNet, tmp_path: Path) -> None:
    write_openvino(freeze(net, dynamic_batch=True), tmp_path / "net.xml", {"alphanet.name": '"<é&"'})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    model = openvino.Core().read_model(tmp_path / "net.xml")
    assert (model.inputs[0].any_name, model.outputs[0].any_name) == ("pixel_values", "logits")
    assert str(model.inputs[0].partial_shape) == "[?,3,16,16]" and str(model.outputs[0].partial_shape) == "[?,10]"
    floats = {str(each.get_element_type()) for each in model.get_ops() if each.get_type_name() == "Constant"}
    assert "float16" not in str(floats)
    assert model.get_rt_info(["alphanet", "name"]).astype(str) == '"<é&"'
    text = (tmp_path / "net.xml").read_text("utf-8")
    assert str(Path(__file__).parents[3]) not in text and str(tmp_path) not in text
