from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import alphanet_zoo as az
from alphanet_export.formats import FORMATS
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.images import read_image
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.evaluate.evaluator import Evaluator, input_of
from alphanet_zoo.files import EXPORTED_ENDINGS
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.predict.model import ImageModel
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net
from tests.predict.pictures import LABELS, labelled_net, write_pictures


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def net() -> AlphaNet:
    return labelled_net()


def test_a_folder_is_not_an_exported_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder, not an exported file; .*Classifier\("):
        az.Classifier.load(tmp_path)


def test_a_prediction_is_the_networks_output_on_the_evaluation_transform(net: AlphaNet, paths: list[Path]) -> None:
    results = az.Classifier(net).predict(paths, topk=3, batch_size=4)
    assert [result.path for result in results] == paths
    preprocessing = input_of(net, net.arch.resolution)
    for result, path in zip(results, paths, strict=True):
        with torch.inference_mode():
            logits = net(preprocessing(read_image(path))[None])[0]
        assert result.logits.shape == (10,) and result.logits.dtype == np.float32
        np.testing.assert_allclose(result.logits, logits, rtol=0, atol=1e-5)
        expected = logits.softmax(0).topk(3)
        assert [each.index for each in result.top] == expected.indices.tolist()
        assert [each.probability for each in result.top] == pytest.approx(expected.values.tolist(), abs=1e-6)
        assert (result.label, result.index) == (LABELS[result.index], result.top[0].index)
        assert result.probability == result.top[0].probability
        assert str(result).startswith(f"{result.label} {100 * result.probability:.2f} %, ")


def test_a_folder_and_a_pattern(net: AlphaNet, paths: list[Path]) -> None:
    classifier, folder = az.Classifier(net), paths[0].parent
    for images in (folder, str(folder), f"{folder}/[0-9]*"):
        assert [result.path for result in classifier.predict(images)] == sorted(paths)
    assert [result.path for result in classifier.stream(str(folder), batch_size=2)] == sorted(paths)


def test_the_representation(net: AlphaNet, tmp_path: Path) -> None:
    size = net.arch.resolution
    path = str(tmp_path / "net.safetensors")
    save_net(net, path)
    assert repr(az.Classifier(path)) == f"Classifier({path!r}, classes=10, input_size={size}, runtime='PyTorch')"
    assert f"classes=10, input_size={size}, runtime='PyTorch')" in repr(az.Classifier(net))
    other = az.Classifier(nn.Flatten().eval(), preprocessing=Preprocessing(8, 8, "bicubic", (0,) * 3, (1,) * 3))
    assert repr(other) == "Classifier('Flatten', input_size=8, runtime='PyTorch')"


def test_the_number_of_labels_is_checked_first(net: AlphaNet) -> None:
    with pytest.raises(UsageError, match="there are 2 labels for 10 classes"):
        az.Classifier(net, labels=("one", "two"))


def test_results_are_read_only(net: AlphaNet, paths: list[Path]) -> None:
    (result,) = az.Classifier(net).predict(paths[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.path = None  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        result.logits[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.top[0].label = "x"  # type: ignore[misc]


def test_forms_and_batch_sizes_agree(net: AlphaNet, paths: list[Path]) -> None:
    classifier = az.Classifier(net)
    by_path = classifier.predict(paths, batch_size=3)
    opened = [Image.open(path) for path in paths]
    for other in (classifier.predict(opened), classifier.predict([read_image(path) for path in paths], batch_size=1)):
        assert [each.path for each in other] == [None] * len(paths)
        for one, two in zip(by_path, other, strict=True):
            np.testing.assert_allclose(one.logits, two.logits, rtol=0, atol=1e-5)
            assert [each.index for each in one.top] == [each.index for each in two.top]
    batch = torch.stack([read_image(paths[0])] * 2)
    first, second = classifier.predict(batch, topk=99)
    assert np.array_equal(first.logits, second.logits) and len(first.top) == 10
    assert sum(each.probability for each in first.top) == pytest.approx(1.0)


def test_a_stream_reads_one_batch_at_a_time_and_reports_unreadable_files(
    net: AlphaNet, paths: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    read: list[Path] = []

    def images() -> Iterator[Path]:
        for path in (paths[0], broken, paths[1], paths[2]):
            read.append(path)
            yield path

    errors: list[AlphaNetError] = []
    stream = az.Classifier(net).stream(images(), batch_size=2, on_error=errors.append)
    assert next(stream).path == paths[0] and read == [paths[0], broken, paths[1]]
    assert [each.path for each in stream] == [paths[1], paths[2]]
    (error,) = errors
    assert str(broken) in str(error)
    with pytest.raises(AlphaNetError, match="broken.png"):
        az.Classifier(net).predict([paths[0], broken])
    (result,) = az.Classifier(net).predict([paths[0], broken], on_error=errors.append)
    assert result.path == paths[0] and len(errors) == 2


def test_files_folders_and_runs_give_what_the_network_gives(net: AlphaNet, paths: list[Path], tmp_path: Path) -> None:
    save_net(net, tmp_path / "net.safetensors")
    net.save_pretrained(tmp_path / "saved")
    (tmp_path / "run" / "final").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("")
    save_net(net, tmp_path / "run" / "final" / "model.safetensors")
    expected = az.Classifier(net).predict(paths)
    for source in ("net.safetensors", "saved", "run"):
        found = az.Classifier(tmp_path / source).predict(paths)
        for one, two in zip(expected, found, strict=True):
            assert np.array_equal(one.logits, two.logits) and one.top == two.top


def test_a_supernet_requires_an_arch_and_statistics(paths: list[Path], tmp_path: Path) -> None:
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    supernet.calibration = None
    save_net(supernet, tmp_path / "supernet.safetensors")
    source, arch = tmp_path / "supernet.safetensors", ALPHANET_TINY.smallest
    with pytest.raises(UsageError, match=r"is a supernet, .*--arch.*--calib-data"):
        az.Classifier(source)
    with pytest.raises(UsageError, match="statistics are not set.*--calib-data"):
        az.Classifier(source, arch=arch)
    rng = np.random.default_rng(0)
    for index in range(10):
        (tmp_path / "train" / str(index)).mkdir(parents=True)
        image = Image.fromarray(rng.integers(0, 256, (14, 18, 3), dtype=np.uint8))
        image.save(tmp_path / "train" / str(index) / "0.png")
    found = az.Classifier(source, arch=arch, calib_data=tmp_path / "train").predict(paths)
    net = Evaluator(None, FolderSource(tmp_path / "train")).calibrated(supernet, arch)
    for one, two in zip(found, az.Classifier(net).predict(paths), strict=True):
        assert np.array_equal(one.logits, two.logits)
    named = az.Classifier(source, arch="smallest", calib_data=tmp_path / "train").predict(paths)
    assert all(np.array_equal(one.logits, two.logits) for one, two in zip(found, named, strict=True))
    with pytest.raises(UsageError, match="no such file or model: 'smalest'"):
        az.Classifier(source, arch="smalest")
    published = supernet
    published.calibration = "checkpoint"
    assert len(az.Classifier(published.eval(), arch=arch).predict(paths)) == len(paths)


def test_networks_that_cannot_be_used_are_refused(net: AlphaNet) -> None:
    with pytest.raises(ValueError, match=r"training mode; call net\.eval\(\)"):
        az.Classifier(labelled_net().train())
    headless = labelled_net()
    headless.reset_classifier(0)
    with pytest.raises(ValueError, match="no classifier"):
        az.Classifier(headless)
    grey = labelled_net()
    grey.set_in_chans(1)
    with pytest.raises(UsageError, match="takes images of 1 channels, and images are read as RGB"):
        az.Classifier(grey)
    with pytest.raises(UsageError, match="cannot be moved to the device nonsense"):
        az.Classifier(labelled_net(), device="nonsense")
    with pytest.raises(UsageError, match="is a URL; download the image"):
        az.Classifier(net).predict("https://example.org/photo.jpg")
    unset = labelled_net()
    unset.calibration = None
    with pytest.raises(UsageError, match="statistics are not set"):
        az.Classifier(unset)
    with pytest.raises(UsageError, match="Linear has no known preprocessing"):
        az.Classifier(nn.Linear(1, 1).eval())
    with pytest.raises(UsageError, match=r"model\.onnx is an exported file.*Classifier\.load"):
        az.Classifier("model.onnx")
    weights = {".safetensors"}  # Opened as a network.
    assert {form.ending for form in FORMATS.values() if form.runs_here} == {*EXPORTED_ENDINGS, ".aoti.pt2"} | weights
    for argument in ({"topk": 0}, {"batch_size": 0}):
        with pytest.raises(UsageError, match="is 0; pass 1 or more"):
            az.Classifier(net).predict([], **argument)
    with pytest.raises(UsageError, match="2 labels for 10 classes"):
        az.Classifier(net, labels=("a", "b")).predict(Image.new("RGB", (20, 20)))


def test_any_module_with_a_preprocessing(paths: list[Path]) -> None:
    class Means(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    preprocessing = Preprocessing(8, 8, "bilinear", (0, 0, 0), (1, 1, 1))
    classifier = az.Classifier(Means().eval(), preprocessing=preprocessing, labels=("red", "green", "blue"))
    (result,) = classifier.predict(Image.new("RGB", (20, 10), (0, 255, 51)))
    assert [each.label for each in result.top] == ["green", "blue", "red"]
    np.testing.assert_allclose(result.logits, [0, 1, 0.2], atol=1e-6)


def test_without_names_the_label_is_the_index(paths: list[Path]) -> None:
    net = labelled_net()
    net.pretrained_cfg["label_names"] = None
    classifier = az.Classifier(net)
    (result,) = classifier.predict(paths[0])
    assert classifier.labels is None and result.label == str(result.index)


def model_of(logits: list[float], **settings: object) -> ImageModel:
    return ImageModel(lambda image: image, lambda images: torch.tensor([logits] * len(images)), **settings)


def test_several_labels_have_a_probability_each() -> None:
    model, image = model_of([0.0, 2.0, -1.0], labels=("a", "b", "c")), Image.new("RGB", (4, 4))
    (one,) = az.Classifier(model).predict(image)
    (several,) = az.Classifier(model, multi_label=True).predict(image)
    assert [each.label for each in several.top] == [each.label for each in one.top] == ["b", "a", "c"]
    assert sum(each.probability for each in one.top) == pytest.approx(1.0)
    expected = torch.tensor([2.0, 0.0, -1.0]).sigmoid().tolist()
    assert [each.probability for each in several.top] == pytest.approx(expected)
    assert az.Classifier(model_of([0.0], multi_label=True)).multi_label
    net = labelled_net()
    net.pretrained_cfg["multi_label"] = True
    assert az.Classifier(net).multi_label


def test_equal_logits_are_in_the_order_of_the_classes_and_nan_is_an_error() -> None:
    image = Image.new("RGB", (4, 4))
    (result,) = az.Classifier(model_of([1.0, 3.0, 3.0, 3.0])).predict(image, topk=3)
    assert [each.index for each in result.top] == [1, 2, 3]
    with pytest.raises(AlphaNetError, match="not finite"):
        az.Classifier(model_of([1.0, float("nan")])).predict(image)
