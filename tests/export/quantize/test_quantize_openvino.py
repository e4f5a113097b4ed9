from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.quantize.images import QuantImages
from alphanet_export.quantize.writing import write_int8
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.errors import AccuracyError, MissingDependencyError
from alphanet_zoo.nn.model import AlphaNet
from tests.export.exported import tiny_net

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed (pip install 'alphanet-zoo[openvino]')")
pytest.importorskip("nncf", reason="NNCF is not installed (pip install 'alphanet-zoo[openvino]')")


def quantize(frozen: FrozenNet, images: QuantImages, max_drop: float) -> tuple[Any, Any]:
    from alphanet_export.quantize.nncf_openvino import quantize_openvino

    return quantize_openvino(frozen, images, max_drop=max_drop, time_it=False)


def int8_weights(model: Any) -> set[str]:
    """Names of the constants of 8-bit integers."""
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    integers = [node for node in constants if node.get_element_type().get_type_name() in ("i8", "u8")]
    return {node.get_friendly_name() for node in integers if len(node.get_output_shape(0)) > 1}


def test_the_files_have_integer_weights_and_their_log(net: AlphaNet, digits: FolderSource, tmp_path: Path) -> None:
    path = tmp_path / "int8.xml"
    written = write_int8(freeze(net), digits, openvino=path, max_drop=5.0)
    log = json.loads((tmp_path / "int8.xml.quantization.json").read_text())
    model = openvino.Core().read_model(path)
    assert set(written.sizes) == set(tmp_path.iterdir())
    assert len(int8_weights(model)) == 14 and log["float_layers"] == [] and log["int8_share"] == 1.0
    assert log["verdict"]["drop"] <= 5.0 and log["verdict"]["images"] == 150 and log["verdict"]["float_top1"] > 60
    summary = json.loads(model.get_rt_info(["alphanet", "quantization"]).astype(str))
    assert summary["precision"] == "int8" and summary["verdict"] == log["verdict"]
    assert summary["toolchain"].startswith("NNCF") and summary["speed"]["cpu"]


def test_the_layer_that_int8_destroys_goes_back_to_float(spoiled: Callable[..., AlphaNet], images: QuantImages) -> None:
    model, log = quantize(freeze(spoiled("conv_head")), images, 30.0)
    assert "conv_head" in log.float_layers and log.verdict.drop <= 30.0
    assert len(int8_weights(model)) == 14 - len(log.float_layers) and 0.5 <= log.int8_share < 1


@pytest.mark.slow
def test_a_drop_that_cannot_be_met_is_an_error(spoiled: Callable[..., AlphaNet], images: QuantImages) -> None:
    pointwise = ("conv_pw", "conv_pwl", "shortcut", "conv_final", "conv_head")
    unlabelled = dataclasses.replace(images, classes=None, why_unlabelled="no labels")
    with pytest.raises(AccuracyError, match="int8 loses more than 1 points unless more than 50 %"):
        quantize(freeze(spoiled(*pointwise)), unlabelled, 1.0)


def test_a_missing_package_is_an_error_with_its_pip_line(
    digits: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(MissingDependencyError, match=r"alphanet-zoo\[openvino\]"):
        write_int8(freeze(tiny_net()), digits, openvino=tmp_path / "int8.xml")
    assert not list(tmp_path.iterdir())
