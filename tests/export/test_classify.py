"""`Classifier.load`: one class for every runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import alphanet_zoo as az
from alphanet_export.build import Source
from alphanet_export.formats import FORMATS
from alphanet_export.freeze import freeze
from alphanet_export.onnx_model import SEAL
from alphanet_export.write import write_export
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.model import AlphaNet
from tests.predict.pictures import LABELS

SLOW = ("executorch", "aoti")


def assert_same_classes(path: Path, net: AlphaNet, paths: list[Path]) -> None:
    """The same five classes and, within 1e-5, the same logits and probabilities as the network."""
    classifier = az.Classifier.load(path, threads=1)
    assert classifier.labels == LABELS and type(classifier) is az.Classifier
    expected = az.Classifier(net).predict(paths)
    for one, two in zip(expected, classifier.predict(paths, batch_size=4), strict=True):
        assert [each.label for each in one.top] == [each.label for each in two.top] and len(one.top) == 5
        probabilities = [[each.probability for each in result.top] for result in (one, two)]
        np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-5)
        np.testing.assert_allclose(one.logits, two.logits, rtol=0, atol=1e-5 * np.abs(one.logits).max())
        assert one.path == two.path


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml", "tiny.pt2"])
def test_every_format_gives_the_same_five_classes(name: str, net: AlphaNet, bundle: Path, paths: list[Path]) -> None:
    assert_same_classes(bundle / name, net, paths)


def test_a_file_for_any_batch_size(net: AlphaNet, paths: list[Path], tmp_path: Path) -> None:
    write_export(freeze(net, dynamic_batch=True), Source(net), verify=False, onnx=tmp_path / "any.onnx")
    assert_same_classes(tmp_path / "any.onnx", net, paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_formats_give_the_same_five_classes(name: str, net: AlphaNet, paths: list[Path], tmp_path: Path) -> None:
    path = FORMATS[name].path(tmp_path / "one")
    write_export(freeze(net), Source(net, "one"), verify=False, **{name: path})
    assert_same_classes(path, net, paths)


def test_the_representation_names_the_runtime(bundle: Path, net: AlphaNet) -> None:
    path, size = str(bundle / "tiny.onnx"), net.arch.resolution
    classifier = az.Classifier.load(path)
    assert repr(classifier) == f"Classifier({path!r}, classes=10, input_size={size}, runtime='ONNX Runtime')"


def test_labels_and_several_labels_come_from_the_file_or_from_the_caller(bundle: Path, tmp_path: Path) -> None:
    assert az.Classifier.load(bundle / "tiny.onnx", labels=range(10)).labels == tuple("0123456789")
    assert not az.Classifier.load(bundle / "tiny.onnx").multi_label
    proto = onnx.load(bundle / "tiny.onnx")
    entries = {entry.key: entry.value for entry in proto.metadata_props if entry.key != SEAL}
    onnx.helper.set_model_props(proto, entries | {"alphanet.multi_label": "true"})
    onnx.save(proto, tmp_path / "several.onnx")
    assert az.Classifier.load(tmp_path / "several.onnx").multi_label


class Foreign(nn.Module):
    """A network of another package: means of the channels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that another program exported, with names and batch sizes of its own."""
    folder = tmp_path_factory.mktemp("foreign")
    helper, batch, side = onnx.helper, 4, 8
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)], "means",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (batch, 3, side, side))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (batch, 3))],
        [onnx.numpy_helper.from_array(np.array([2, 3]), "axes")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "four.onnx")
    graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("n", 3, "h", "w")))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("n", 3)))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "any.onnx")
    flat = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "flat",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 3))],
    )  # fmt: skip
    onnx.save(helper.make_model(flat, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "flat.onnx")
    torch.export.save(torch.export.export(Foreign(), (torch.zeros(1, 3, side, side),)), folder / "one.pt2")
    return folder


MEANS = Preprocessing(8, 9, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", ["four.onnx", "any.onnx", "one.pt2"])
def test_a_file_of_another_program_with_its_preprocessing(name: str, foreign: Path, paths: list[Path]) -> None:
    classifier = az.Classifier.load(foreign / name, preprocessing=MEANS, labels=("red", "green", "blue"))
    expected = az.Classifier(Foreign().eval(), preprocessing=MEANS).predict(paths)
    for one, two in zip(expected, classifier.predict(paths, batch_size=3), strict=True):
        np.testing.assert_allclose(one.logits, two.logits, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="no metadata of alphanet export, so its preprocessing is unknown") as error:
        az.Classifier.load(foreign / name)
    for missing in ("input_size", "resize_size", "interpolation", "mean", "std", "--preprocessing"):
        assert missing in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_used(bundle: Path, foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has its own preprocessing"):
        az.Classifier.load(bundle / "tiny.onnx", preprocessing=MEANS)
    with pytest.raises(AlphaNetError, match="takes images of 8 pixels, and its preprocessing gives 6"):
        az.Classifier.load(foreign / "four.onnx", preprocessing=MEANS.for_size(6))
    with pytest.raises(AlphaNetError, match=r"flat\.onnx takes x tensor\(float\) \[1, 3\]; pass a classifier"):
        az.Classifier.load(foreign / "flat.onnx", preprocessing=MEANS)
    with pytest.raises(UsageError, match="unknown file type"):
        az.Classifier.load(Path(__file__))
    for file in ("tiny.xml", "tiny.bin", "tiny.xml.json"):
        (tmp_path / file).write_bytes((bundle / file).read_bytes())
    with (tmp_path / "tiny.bin").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\xff")
    with pytest.raises(AlphaNetError, match="has changed since the export"):
        az.Classifier.load(tmp_path / "tiny.xml")
    proto = onnx.load(bundle / "tiny.onnx")
    entries = {entry.key: entry.value for entry in proto.metadata_props if entry.key != SEAL}
    broken = json.loads(entries["alphanet.preprocessing"]) | {"std": [0, 0, 0]}
    onnx.helper.set_model_props(proto, entries | {"alphanet.preprocessing": json.dumps(broken)})
    onnx.save(proto, tmp_path / "broken.onnx")
    with pytest.raises(AlphaNetError, match="metadata is not valid"):
        az.Classifier.load(tmp_path / "broken.onnx")
