from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from alphanet_export.freeze import freeze
from alphanet_export.metadata import ExportedModel, open_exported
from alphanet_export.verify.measure.graph_health import GraphHealth, measure_health
from alphanet_export.verify.measure.graph_rules import graph_rules
from alphanet_export.write import write_export
from alphanet_zoo.errors import TargetError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET_CIFAR, ALPHANET_TINY
from alphanet_zoo.zoo.registry import create_model
from tests.export.exported import tiny_onnx, with_broken_fusion


def opened(path: Path, content: bytes) -> tuple[ExportedModel, GraphHealth]:
    path.write_bytes(content)
    return open_exported(path), measure_health(path)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_an_export_keeps_every_rule(tmp_path: Path, dynamic_batch: bool) -> None:
    rules = graph_rules(*opened(tmp_path / "m.onnx", tiny_onnx(dynamic_batch=dynamic_batch)), machine="x86_64")
    assert rules.not_applicable is None and rules.holds and rules.check() is rules
    assert {rule.name: rule.expected for rule in rules.rules} == {
        "convolutions in the blocked layout": 15 + (not dynamic_batch),
        "SiLUs fused to one QuickGelu": 8,  # The stem, the head's two, and 1 + 2 + 2 in the three blocks.
        "ReLUs and hard sigmoids outside convolutions": 0,
        "additions outside convolutions": 1,  # The pool of 8 channels may leave a layout of blocks of 16.
        "nodes that only convert layouts": 1 + 3 + 2,
    }


@pytest.mark.parametrize(
    "depth", [(2, 1, 1), *(pytest.param(d, marks=pytest.mark.slow) for d in ((1, 1, 1), (2, 2, 2)))]
)
def test_narrow_blocks_keep_every_rule(tmp_path: Path, depth: tuple[int, ...]) -> None:
    """Convolutions of 8 or 24 channels may take the plain layout if a block has 16."""
    arch = dataclasses.replace(ALPHANET_TINY.smallest, depth=depth)
    net = fill_live(AlphaNet(arch, ALPHANET_TINY, 10)).eval()
    write_export(freeze(net), onnx=tmp_path / "m.onnx", verify=False)
    rules = graph_rules(*opened(tmp_path / "m.onnx", (tmp_path / "m.onnx").read_bytes()), machine="x86_64")
    assert rules.holds, rules


def test_shortcuts_and_excites_of_24_and_72_channels_keep_every_rule(tmp_path: Path) -> None:
    """Two additions and both pools are in the plain layout: 16 nodes convert layouts, as many as are expected."""
    arch = ArchSpec(
        resolution=12, width=(16, 8, 24, 24, 128), depth=(2, 2, 2), kernel_size=(3, 3, 3), expand_ratio=(1, 4, 3)
    )  # fmt: skip
    net = fill_live(AlphaNet(arch, ALPHANET_TINY, 10)).eval()
    write_export(freeze(net), onnx=tmp_path / "m.onnx", verify=False)
    rules = graph_rules(*opened(tmp_path / "m.onnx", (tmp_path / "m.onnx").read_bytes()), machine="x86_64")
    assert rules.holds, rules
    (conversions,) = [rule for rule in rules.rules if rule.name == "nodes that only convert layouts"]
    assert conversions.expected == 16


def test_shortcuts_behind_a_strided_one_of_24_channels_keep_every_rule(tmp_path: Path) -> None:
    """Two shortcuts of 24 channels pass on the plain layout of the strided one before them."""
    arch = ArchSpec(
        resolution=28, width=(24, 24, 24, 32, 72, 88, 144, 768), depth=(2, 3, 2, 2, 3, 2),
        kernel_size=(3, 3, 5, 3, 3, 5), expand_ratio=(1, 3, 4, 4, 3, 4),
    )  # fmt: skip
    net = fill_live(AlphaNet(arch, ALPHANET_CIFAR, 10)).eval()
    write_export(freeze(net), onnx=tmp_path / "m.onnx", verify=False)
    rules = graph_rules(*opened(tmp_path / "m.onnx", (tmp_path / "m.onnx").read_bytes()), machine="x86_64")
    assert rules.holds, rules


@pytest.mark.parametrize("name", ["alphanet_c10_s", pytest.param("alphanet_c10_xl", marks=pytest.mark.slow)])
def test_included_models_keep_every_rule(tmp_path: Path, name: str) -> None:
    write_export(freeze(create_model(name, pretrained=True)), onnx=tmp_path / "m.onnx", verify=False)
    rules = graph_rules(*opened(tmp_path / "m.onnx", (tmp_path / "m.onnx").read_bytes()), machine="x86_64")
    assert rules.holds, rules


def test_a_lost_fusion_is_reported(tmp_path: Path) -> None:
    rules = graph_rules(*opened(tmp_path / "m.onnx", with_broken_fusion(tiny_onnx())), machine="AMD64")
    assert [rule.name for rule in rules.rules if not rule.holds][0] == "SiLUs fused to one QuickGelu"
    with pytest.raises(TargetError, match="QuickGelu: 7 instead of 8.* export it again.*--any-graph"):
        rules.check()


def test_a_convolution_outside_the_layout_is_reported(tmp_path: Path) -> None:
    model, health = opened(tmp_path / "m.onnx", tiny_onnx())
    slower = dataclasses.replace(health, blocked_convolutions=health.blocked_convolutions - 2, reorder_nodes=40)
    broken = [rule.name for rule in graph_rules(model, slower, machine="x86_64").rules if not rule.holds]
    assert broken == ["convolutions in the blocked layout", "nodes that only convert layouts"]


def test_where_no_rule_applies_it_says_why(tmp_path: Path) -> None:
    model, health = opened(tmp_path / "m.onnx", with_broken_fusion(tiny_onnx()))
    rules = graph_rules(model, health, machine="aarch64")
    assert rules.rules == () and rules.check() is rules
    assert rules.not_applicable == "ONNX Runtime has no blocked convolution layout on aarch64"
    half = graph_rules(model, dataclasses.replace(health, precision="int8"), machine="x86_64")
    assert half.not_applicable and "computes in int8" in half.not_applicable


def test_the_precision_of_a_file_is_that_of_its_convolutions(tmp_path: Path) -> None:
    assert opened(tmp_path / "m.onnx", tiny_onnx())[1].precision == "float32"
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 1, 2, 2]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT16, [1, 1, 1, 1], [1.0])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", info[:1], info[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "h.onnx")
    assert measure_health(tmp_path / "h.onnx").precision == "float16"
