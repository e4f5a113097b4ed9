from __future__ import annotations

import getpass
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import alphanet_zoo
from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.verify.measure.parity import measure_parity, synthetic_images
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.errors import ParityError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY

ARCH = ALPHANET_TINY.largest
CONVS = 2 + 1 + 2 * 2 + 3 * 3 + 3 * 5 + 2
"""Stem, last two; two blocks of two, three of three, three of three and two in their SE; projections of two stages."""


@pytest.fixture(scope="module")
def net() -> AlphaNet:
    return fill_live(AlphaNet(ARCH, ALPHANET_TINY, 10)).eval()


@pytest.fixture(scope="module")
def frozen(net: AlphaNet) -> FrozenNet:
    return freeze(net)


@pytest.fixture(scope="module")
def content(frozen: FrozenNet) -> bytes:
    return onnx_bytes(frozen, {"alphanet.name": '"tiny"'})


@pytest.fixture(scope="module")
def dynamic(net: AlphaNet) -> tuple[FrozenNet, bytes]:
    frozen = freeze(net, img_size=14, dynamic_batch=True)
    return frozen, onnx_bytes(frozen)


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def operators(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


def test_graph_has_only_operators_with_fast_kernels(content: bytes) -> None:
    assert operators(content) == {
        "Conv": CONVS + 1,  # the classifier
        "Sigmoid": 17,  # the stem, 2 + 6 + 6 in the blocks (the first stage does not expand), the last two
        "Mul": 17 + 3,
        "Relu": 3,
        "HardSigmoid": 3,
        "GlobalAveragePool": 3 + 1,
        "AveragePool": 2,
        "Add": 8,
        "Flatten": 1,
    }


def test_hard_sigmoid_has_torchs_coefficients(content: bytes) -> None:
    for node in onnx.load_from_string(content).graph.node:
        if node.op_type == "HardSigmoid":
            values = {attribute.name: attribute.f for attribute in node.attribute}
            assert values == {"alpha": pytest.approx(1 / 6), "beta": 0.5}


def test_file_is_whole_valid_and_named(content: bytes) -> None:
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in proto.graph.initializer)
    inputs, outputs = session_of(content).get_inputs(), session_of(content).get_outputs()
    assert [(value.name, value.shape, value.type) for value in inputs] == [
        ("pixel_values", [1, 3, 16, 16], "tensor(float)")
    ]
    assert [(value.name, value.shape) for value in outputs] == [("logits", [1, 10])]
    assert {p.key: json.loads(p.value) for p in proto.metadata_props} == {"alphanet.name": "tiny"}


def test_file_tells_nothing_of_the_machine(content: bytes) -> None:
    package = Path(alphanet_zoo.__file__).parent.parent
    for trace in (str(package), str(Path(torch.__file__).parent.parent), ".py", "/home/", getpass.getuser() + "/"):
        assert trace.encode() not in content, trace


def test_same_net_gives_the_same_bytes_here_and_in_another_process(content: bytes, net: AlphaNet) -> None:
    assert onnx_bytes(freeze(net), {"alphanet.name": '"tiny"'}) == content
    script = """
import hashlib
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY as SPACE
from alphanet_export.freeze import freeze
from alphanet_export.writers.to_onnx import onnx_bytes
net = fill_live(AlphaNet(SPACE.largest, SPACE, 10)).eval()
print(hashlib.sha256(onnx_bytes(freeze(net), {"alphanet.name": '"tiny"'})).hexdigest())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [hashlib.sha256(content).hexdigest()]


def test_logits_are_those_of_torch(content: bytes, frozen: FrozenNet, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    parity = measure_parity(tmp_path / "net.onnx", frozen.net, synthetic_images(4, 16), synthetic=True).check()
    assert parity.max_relative_error < 1e-5
    assert (parity.top1_agreement, parity.images, parity.synthetic) == (1.0, 4, True)


def test_a_wrong_convolution_breaks_parity(content: bytes, frozen: FrozenNet, tmp_path: Path) -> None:
    proto = onnx.load_from_string(content)
    (weight,) = [t for t in proto.graph.initializer if t.name == "blocks.1.1.conv_dw.weight"]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.5, weight.name))
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ParityError):
        measure_parity(tmp_path / "net.onnx", frozen.net, synthetic_images(2, 16)).check()


def test_dynamic_batch_takes_any_number_of_images(dynamic: tuple[FrozenNet, bytes]) -> None:
    frozen, content = dynamic
    session = session_of(content)
    assert session.get_inputs()[0].shape == ["batch", 3, 14, 14]
    assert session.get_outputs()[0].shape == ["batch", 10]
    for count in (1, 5):
        images = synthetic_images(count, 14, seed=count)
        with torch.inference_mode():
            expected = frozen.net(images).numpy()
        actual = session.run(["logits"], {"pixel_values": images.numpy()})[0]
        assert actual.shape == (count, 10)
        assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-5


def test_another_size_puts_one_bicubic_resize_in_the_graph(dynamic: tuple[FrozenNet, bytes], content: bytes) -> None:
    changes = operators(dynamic[1])
    changes.subtract(operators(content))
    assert {name: count for name, count in changes.items() if count} == {"Resize": 1, "Conv": -1, "Gemm": 1}
    (resize,) = [node for node in onnx.load_from_string(dynamic[1]).graph.node if node.op_type == "Resize"]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in resize.attribute}
    assert attributes["mode"] == b"cubic" and attributes["cubic_coeff_a"] == -0.75
    assert attributes["coordinate_transformation_mode"] == b"half_pixel" and not attributes.get("antialias", 0)


def test_newer_opset_has_the_same_operators(frozen: FrozenNet, content: bytes) -> None:
    newer = onnx_bytes(frozen, opset=24)
    assert onnx.load_from_string(newer).opset_import[0].version == 24
    assert operators(newer) == operators(content)


def test_the_ir_version_is_no_later_than_the_opset_needs(frozen: FrozenNet, content: bytes) -> None:
    assert onnx.load_from_string(content).ir_version == 8  # ONNX 1.13, which brought opset 18; read by ORT from 1.14.
    for opset in (20, 21, 24):
        proto = onnx.load_from_string(onnx_bytes(frozen, opset=opset))
        assert proto.ir_version == {20: 9, 21: 10, 24: 10}[opset]
        onnx.checker.check_model(proto)


@pytest.mark.parametrize("opset", [17, 25, 0])
def test_unsupported_opset_is_refused(frozen: FrozenNet, opset: int) -> None:
    with pytest.raises(UsageError, match="pass 18 to 24"):
        onnx_bytes(frozen, opset=opset)
