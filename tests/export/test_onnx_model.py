from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from alphanet_export.metadata import open_exported
from alphanet_export.onnx_model import graph_sha256, graphs_of, open_session, run_logits, tensors_of
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.space.presets import ALPHANET_TINY
from tests.export.exported import corrupted, tiny_onnx


def changed(path: Path, key: str, value: str | None) -> Path:
    """Writes the tiny model with one metadata entry changed, or removed."""
    proto = onnx.load_model_from_string(tiny_onnx())
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    entries.pop(key) if value is None else entries.update({key: value})
    del proto.metadata_props[:]
    helper.set_model_props(proto, entries)
    onnx.save(proto, path)
    return path


def test_an_exported_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx())
    model = open_exported(path)
    assert (model.input_size, model.batch, model.opset, model.num_classes) == (12, 1, 18, 10)
    assert model.arch == ALPHANET_TINY.smallest and model.space == ALPHANET_TINY
    assert model.labels == tuple("0123456789")
    assert model.file_sha256 == sha256_of(path)
    path.write_bytes(tiny_onnx(dynamic_batch=True))
    assert open_exported(path).batch is None


def test_the_graph_hash_is_of_the_graph_alone(tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(tiny_onnx())
    digest = graph_sha256(proto)
    helper.set_model_props(proto, {"note": "another file, the same network"})
    proto.producer_version = "other"
    proto.graph.node[0].doc_string = "from /somewhere/model.py"
    proto.graph.node[0].metadata_props.add(key="stack", value="line 1")
    proto.graph.initializer[0].doc_string = "weights"
    assert graph_sha256(proto) == digest
    assert proto.producer_version == "other"
    assert graph_sha256(onnx.load_model_from_string(corrupted(tiny_onnx(), 1.0001))) != digest
    proto.opset_import[0].version += 1
    assert graph_sha256(proto) != digest


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a file"):
        open_exported(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        open_exported(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no ONNX at all", b"\x00" * 100, b"\x08\x0a"])
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(AlphaNetError, match=r"bad\.onnx") as refusal:
        open_exported(path)
    assert refusal.value.exit_code == 1


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "short.onnx"
    path.write_bytes(tiny_onnx()[: int(len(tiny_onnx()) * share)])
    with pytest.raises(AlphaNetError, match=r"short\.onnx") as refusal:
        open_exported(path)
    assert refusal.value.exit_code == 1


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_weights_in_other_files_are_refused(tmp_path: Path, place: str) -> None:
    proto = onnx.load_model_from_string(tiny_onnx())
    tensor = TensorProto(name="stray", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    constant = helper.make_node("Constant", [], ["stray"], value=tensor)
    if place == "initializer":
        proto.graph.initializer.append(tensor)
    elif place == "constant":
        proto.graph.node.append(constant)
    else:
        body = helper.make_graph([constant], "then", [], [])
        proto.graph.node.append(helper.make_node("If", ["stray"], ["out"], then_branch=body, else_branch=body))
    path = tmp_path / "external.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(AlphaNetError, match="'stray' in another file") as refusal:
        open_exported(path)
    assert refusal.value.exit_code == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("alphanet.arch", None, r"has no metadata of alphanet export \(alphanet.arch\)"),
        ("alphanet.arch", "{", "alphanet.arch is not JSON"),
        ("alphanet.arch", "[1]", "is not valid"),
        ("alphanet.arch", json.dumps({**ALPHANET_TINY.smallest.to_dict(), "resolution": 13}), "resolution is 13"),
        ("alphanet.space", "{}", "is not valid"),
        ("alphanet.preprocessing", "{}", "is not valid"),
        ("alphanet.num_classes", "-3", "num_classes is -3"),
        ("alphanet.num_classes", '"ten"', "num_classes is 'ten'"),
    ],
)
def test_metadata_that_is_missing_or_wrong_is_refused(
    tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    with pytest.raises(AlphaNetError, match=message) as refusal:
        open_exported(changed(tmp_path / "changed.onnx", key, value))
    assert refusal.value.exit_code == 1


@pytest.mark.parametrize("shape", [[4, 3, 12, 12], [1, 3, 12, 16], [1, 1, 12, 12], [1, 3, 12]])
def test_another_input_is_refused(tmp_path: Path, shape: list[int]) -> None:
    proto = onnx.load_model_from_string(tiny_onnx())
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape))
    path = tmp_path / "shape.onnx"
    onnx.save(proto, path)
    with pytest.raises(AlphaNetError, match=r"shape\.onnx"):
        open_exported(path)


def test_other_names_are_refused(tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(tiny_onnx())
    proto.graph.output[0].name = "scores"
    onnx.save(proto, tmp_path / "names.onnx")
    with pytest.raises(AlphaNetError, match=r"the outputs \['scores'\]"):
        open_exported(tmp_path / "names.onnx")


def test_a_graph_that_cannot_run_is_refused(tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(tiny_onnx())
    proto.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(proto, tmp_path / "broken.onnx")
    with pytest.raises(AlphaNetError, match=r"cannot load .*broken\.onnx"):
        open_session(tmp_path / "broken.onnx")


def test_one_image_at_a_time_gives_what_a_batch_gives(tmp_path: Path) -> None:
    (tmp_path / "one.onnx").write_bytes(tiny_onnx())
    (tmp_path / "any.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    images = np.random.default_rng(0).standard_normal((5, 3, 12, 12), dtype=np.float32)
    one, many = (run_logits(open_session(tmp_path / f"{name}.onnx"), images) for name in ("one", "any"))
    assert one.shape == (5, 10)
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)


def test_graphs_and_tensors_inside_nodes_are_found() -> None:
    tensor = helper.make_tensor("inner", TensorProto.FLOAT, [1], [1.0])
    body = helper.make_graph([helper.make_node("Constant", [], ["inner"], value=tensor)], "inside", [], [])
    node = helper.make_node("If", ["c"], ["out"], then_branch=body, else_branch=body)
    proto = helper.make_model(helper.make_graph([node], "outside", [], []))
    assert [graph.name for graph in graphs_of(proto)] == ["outside", "inside", "inside"]
    assert [tensor.name for tensor in tensors_of(proto)] == ["inner", "inner"]
