"""F26: ONNX files that would read other files or contain anything unexpected; files that changed since the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from alphanet_export.freeze import freeze
from alphanet_export.metadata import open_exported
from alphanet_export.onnx_model import open_session, sealed
from alphanet_export.verify.measure.weights import compare_weights
from alphanet_export.write import write_export
from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import AlphaNetError, ParityError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net

FLIPS = 400


@pytest.fixture(scope="module")
def net() -> AlphaNet:
    made = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10), seed=1).eval()
    made.calibration = "training"
    return made


@pytest.fixture(scope="module")
def exported(net: AlphaNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file; read only."""
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    write_export(freeze(net), onnx=path, verify=False)
    return path


def external(tensor: TensorProto, location: str) -> None:
    """Makes a tensor refer to another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def in_initializer(location: str) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: external(proto.graph.initializer[0], location)


def marked_only(proto: onnx.ModelProto) -> None:
    """The reference is there, but the tensor is marked as one inside the file."""
    external(proto.graph.initializer[0], "secret.bin")
    proto.graph.initializer[0].data_location = TensorProto.DEFAULT


def constant(location: str = "secret.bin") -> onnx.NodeProto:
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[10])
    external(tensor, location)
    return helper.make_node("Constant", [], ["extra"], value=tensor)


def in_constant(proto: onnx.ModelProto) -> None:
    proto.graph.node.insert(0, constant())


def in_branch(proto: onnx.ModelProto) -> None:
    branch = helper.make_graph([constant()], "branch", [], [helper.make_tensor_value_info("extra", 1, [10])])
    proto.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def in_function(proto: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 18)]
    proto.functions.append(helper.make_function("d", "W", [], ["extra"], [constant()], opsets))


def in_default_attribute(proto: onnx.ModelProto) -> None:
    function = helper.make_function("d", "W", [], [], [], [helper.make_opsetid("", 18)])
    attribute = function.attribute_proto.add(name="t", type=onnx.AttributeProto.TENSOR)
    external(attribute.t, "secret.bin")
    proto.functions.append(function)


def in_sparse(proto: onnx.ModelProto) -> None:
    external(proto.graph.sparse_initializer.add().values, "secret.bin")


def in_training(proto: onnx.ModelProto) -> None:
    external(proto.training_info.add().initialization.initializer.add(), "secret.bin")


def in_attribute_list(proto: onnx.ModelProto) -> None:
    external(proto.graph.node[0].attribute.add(name="l", type=onnx.AttributeProto.TENSORS).tensors.add(), "secret.bin")


EXTERNAL = [
    *(in_initializer(place) for place in ("secret.bin", "../secret.bin", "/etc/passwd", "./a/../secret.bin")),
    marked_only, in_constant, in_branch, in_function, in_default_attribute, in_sparse, in_training, in_attribute_list,
]  # fmt: skip


@pytest.mark.parametrize("change", EXTERNAL)
def test_no_other_file_is_ever_read(exported: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    assert len(EXTERNAL) == 12
    proto = onnx.load_model_from_string(exported.read_bytes())
    change(proto)
    path = tmp_path / "net.onnx"
    path.write_bytes(sealed(proto.SerializeToString()))
    (tmp_path / "secret.bin").write_bytes(np.zeros(10_000, "<f4").tobytes())
    for read in (open_exported, open_session):
        with pytest.raises(AlphaNetError, match="in another file|not accepted") as caught:
            read(path)
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value)


def foreign_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].domain = "com.example"


def short_tensor(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]


def vast_tensor(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[0] = 2**40


def unknown_field(proto: onnx.ModelProto) -> None:
    proto.graph.MergeFromString(b"\xf2\x3f\x01x")  # Field 1022, which ONNX does not have.


def test_a_graph_that_cannot_run_is_one_line(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime loads it, fails when it runs, and would print a line of its own."""
    proto = onnx.load_model_from_string(exported.read_bytes())
    conv = [node for node in proto.graph.node if node.op_type == "Conv"][3]
    next(attribute for attribute in conv.attribute if attribute.name == "group").i = 2**40
    (tmp_path / "net.onnx").write_bytes(sealed(proto.SerializeToString()))
    assert main(["verify", str(tmp_path / "net.onnx"), "--any-graph"]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if ": measuring " not in line]
    assert len(lines) == 1 and "cannot run the file" in lines[0] and "group" in lines[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (foreign_operator, "of the domain 'com.example'"),
        (short_tensor, "bytes in the tensor"),
        (vast_tensor, "of the shape"),
        (unknown_field, "that this version of onnx does not have"),
    ],
)
def test_only_what_is_listed_is_accepted(
    exported: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], told: str
) -> None:
    proto = onnx.load_model_from_string(exported.read_bytes())
    change(proto)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(AlphaNetError, match=told):
        open_exported(tmp_path / "net.onnx")


def flipped(exported: Path) -> list[tuple[str, onnx.ModelProto]]:
    """The file with one bit of one initialiser flipped, `FLIPS` times, with the tensor's name."""
    draw, changed = np.random.default_rng(0), []
    content = exported.read_bytes()
    for _ in range(FLIPS):
        proto = onnx.load_model_from_string(content)
        tensor = proto.graph.initializer[draw.integers(len(proto.graph.initializer))]
        if not tensor.raw_data:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        data = bytearray(tensor.raw_data)
        data[draw.integers(len(data))] ^= 1 << int(draw.integers(8))
        tensor.raw_data = bytes(data)
        changed.append((tensor.name, proto))
    return changed


@pytest.mark.parametrize("text", [b"alphanet.name", b"pixel_values", b"Conv"])
def test_text_that_is_not_utf8_is_refused(exported: Path, tmp_path: Path, text: bytes) -> None:
    """protobuf returns such texts as bytes: in metadata, names and operators."""
    content = exported.read_bytes()
    assert text in content
    path = tmp_path / "net.onnx"
    path.write_bytes(content.replace(text, text[:-2] + b"\xff\xfe"))
    with pytest.raises(AlphaNetError, match="is not UTF-8 text|is not an ONNX model"):
        open_exported(path)


def test_every_flipped_bit_breaks_the_recorded_digest(exported: Path, tmp_path: Path) -> None:
    open_exported(exported)
    found = 0
    for _, proto in flipped(exported)[::8]:
        (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ParityError, match="graph or its weights of .* changed after the export"):
            open_exported(tmp_path / "net.onnx")
        found += 1
    assert found == FLIPS // 8


def test_every_flipped_bit_is_found_by_the_reference(
    exported: Path, net: AlphaNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if somebody writes new digests into the file."""
    assert compare_weights(open_exported(exported), net).check().differing == ()
    fresh, found = exported.read_bytes(), 0
    monkeypatch.setattr("alphanet_export.verify.measure.weights.onnx_bytes", lambda *_, **__: fresh)
    monkeypatch.setattr("alphanet_export.verify.measure.weights.freeze", lambda *_, **__: None)
    for name, proto in flipped(exported):
        (tmp_path / "net.onnx").write_bytes(sealed(proto.SerializeToString()))
        match = compare_weights(open_exported(tmp_path / "net.onnx"), net)
        assert match.differing == (name,)
        with pytest.raises(ParityError, match="are not those of its reference"):
            match.check()
        found += 1
    assert found == FLIPS


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_finds_400_of_400_flipped_bits(
    exported: Path, net: AlphaNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a reference; with one, also 4 files whose digests were written again."""
    path, weights = tmp_path / "net.onnx", tmp_path / "net.safetensors"
    save_net(net, weights)
    quick = ["--seconds", "0.05", "--repeats", "2", "--starts", "1", "--threads", "1", "--any-graph"]
    path.write_bytes(exported.read_bytes())
    assert main(["verify", str(path), *quick, "--reference", str(weights)]) == 0
    files, found = sorted(tmp_path.iterdir()), 0
    capsys.readouterr()
    for number, (name, proto) in enumerate(flipped(exported)):
        path.write_bytes(proto.SerializeToString())
        assert main(["verify", str(path), *quick]) == 3
        error = capsys.readouterr().err
        assert "changed after the export" in error and error.count("\n") == 1
        found += 1
        if number % 100 == 0:
            path.write_bytes(sealed(proto.SerializeToString()))
            assert main(["verify", str(path), *quick, "--reference", str(weights)]) == 3
            told = capsys.readouterr().err  # A flip that also breaks parity is reported as that.
            assert "are not those of its reference" in told and name in told or "relative error" in told
    print(f"{found} of {FLIPS} flipped bits found")
    assert found == FLIPS and sorted(tmp_path.iterdir()) == files


def test_changed_metadata_breaks_the_recorded_digest(exported: Path, tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(exported.read_bytes())
    entry = next(entry for entry in proto.metadata_props if entry.key == "alphanet.preprocessing")
    entry.value = entry.value.replace("0.485", "0.486")
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ParityError, match="metadata of .* changed after the export"):
        open_exported(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("num_classes", "11", "computes 10 logits, and its metadata states 11 classes"),
        ("labels", '["a", "b", "c"]', "3 labels for 10 classes"),
        ("params", "[1]", r"alphanet\.params is"),
        ("space", "[" * 100_000, "too deeply nested"),
        ("name", "{}", r"alphanet\.name is"),
    ],
)
def test_metadata_that_contradicts_the_graph_is_refused(
    exported: Path, tmp_path: Path, key: str, value: str, told: str
) -> None:
    proto = onnx.load_model_from_string(exported.read_bytes())
    entries = {e.key: e.value for e in proto.metadata_props if e.key != "alphanet.digests"}
    helper.set_model_props(proto, entries | {f"alphanet.{key}": value})
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(AlphaNetError, match=told):
        open_exported(tmp_path / "net.onnx")
