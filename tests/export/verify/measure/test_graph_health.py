from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from alphanet_export.verify.measure.graph_health import measure_health
from alphanet_zoo.errors import UsageError
from tests.export.exported import tiny_onnx


def test_an_export_is_clean_and_fuses(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    health = measure_health(tmp_path / "tiny.onnx")
    proto = onnx.load(tmp_path / "tiny.onnx")
    assert health.nodes == len(proto.graph.node) == sum(health.operators.values())
    assert health.operators["Conv"] == health.convolutions
    assert (health.leftovers, health.resizes) == (0, 0)
    assert health.optimized_nodes == sum(health.optimized_operators.values())
    assert health.fused_nodes >= health.operators["Sigmoid"]  # Each Sigmoid x Mul becomes one QuickGelu.
    assert list(health.operators.values()) == sorted(health.operators.values(), reverse=True)


def test_leftovers_are_counted(tmp_path: Path) -> None:
    scale = [helper.make_tensor(name, TensorProto.FLOAT, [3], np.ones(3)) for name in ("w", "b", "m", "v")]
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("BatchNormalization", ["i", "w", "b", "m", "v"], ["n"]),
        helper.make_node("Cast", ["n"], ["c"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    shape = [1, 3, 4, 4]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], scale)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "g.onnx")
    health = measure_health(tmp_path / "g.onnx")
    assert health.leftovers == 4
    assert (health.convolutions, health.blocked_convolutions, health.reorder_nodes) == (0, 0, 0)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a file"):
        measure_health(tmp_path / "none.onnx")
