from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alphanet_export.metadata import ExportedModel, open_exported
from alphanet_export.verify.measure.accuracy import Accuracy, measure_accuracy
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.classes import match_classes
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.errors import AccuracyError, AlphaNetError, UsageError
from alphanet_zoo.nn.model import AlphaNet
from tests.export.exported import tiny_net, tiny_onnx, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accuracy")
    (folder / "tiny.onnx").write_bytes(tiny_onnx())
    return folder


@pytest.fixture(scope="module")
def net() -> AlphaNet:
    return tiny_net()


@pytest.fixture(scope="module")
def model(folder: Path) -> ExportedModel:
    return open_exported(folder / "tiny.onnx")


@pytest.fixture(scope="module")
def images(folder: Path) -> FolderSource:
    return FolderSource(write_images(folder / "images"))


def test_accuracy_is_that_of_the_net_on_the_same_pixels(
    model: ExportedModel, net: AlphaNet, images: FolderSource
) -> None:
    accuracy = measure_accuracy(model, images)
    batches = list(evaluation_batches(images, model.preprocessing, 64))
    with torch.inference_mode():
        logits = torch.cat([net(pixels) for pixels, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    top5 = (logits.topk(5).indices == labels[:, None]).any(1)
    assert accuracy.images == 30 and accuracy.classes == 10
    assert accuracy.top1 == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())
    assert accuracy.top5 == pytest.approx(100 * top5.float().mean().item())
    assert 0 < accuracy.top5 < 100
    low, high = accuracy.top1_interval
    assert low < accuracy.top1 + 1e-9 and accuracy.top1 < high


def test_limit_takes_images_of_all_classes(model: ExportedModel, images: FolderSource) -> None:
    assert measure_accuracy(model, images, limit=10).images == 10


def outputs(model: ExportedModel, source: FolderSource, **options: bool) -> list[int]:
    return match_classes(source.classes, model.labels, model.num_classes, where=source.name, **options).tolist()


def test_classes_are_matched_by_name(model: ExportedModel, tmp_path: Path) -> None:
    some = write_images(tmp_path / "some", classes=10, each=1)
    for name in "014":
        (some / name / "0.png").unlink()
        (some / name).rmdir()
    assert outputs(model, FolderSource(some)) == [2, 3, 5, 6, 7, 8, 9]


def test_other_names_count_in_their_order_only_on_request(model: ExportedModel, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "named", each=1)
    for index in range(10):
        (folder / str(index)).rename(folder / f"n{9 - index:03}")
    with pytest.raises(UsageError, match="not labels of the model: n000, .*labels: 0, 1, .*--labels-by-position"):
        measure_accuracy(model, FolderSource(folder))
    assert outputs(model, FolderSource(folder), by_position=True) == list(range(10))
    assert measure_accuracy(model, FolderSource(folder), labels_by_position=True).images == 10


def test_another_number_of_classes_is_refused(model: ExportedModel, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "more", classes=12, each=1)
    with pytest.raises(UsageError, match="not labels of the model: 10, 11"):
        measure_accuracy(model, FolderSource(folder))
    with pytest.raises(UsageError, match="has 12 classes .* the model has 10"):
        measure_accuracy(model, FolderSource(folder), labels_by_position=True)


def test_top5_says_nothing_of_five_classes(tmp_path: Path) -> None:
    (tmp_path / "five.onnx").write_bytes(tiny_onnx(5))
    folder = write_images(tmp_path / "images", classes=5, each=2)
    accuracy = measure_accuracy(open_exported(tmp_path / "five.onnx"), FolderSource(folder))
    assert accuracy.top5 is None and accuracy.top5_interval is None


def test_a_damaged_image_is_named(model: ExportedModel, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", each=1)
    (folder / "3" / "0.png").write_bytes(b"no image")
    assert measure_accuracy(model, FolderSource(folder)).images == 9  # One may be broken.
    (folder / "5" / "0.png").write_bytes(b"no image")
    with pytest.raises(AlphaNetError, match="3/0.png.*5/0.png"):
        measure_accuracy(model, FolderSource(folder))


def test_the_floor() -> None:
    accuracy = Accuracy(80.0, (70.0, 88.0), None, None, 100, 10, 80)
    assert accuracy.check(80.0) is accuracy
    with pytest.raises(AccuracyError, match="80.00 % .* below the minimum of 80.5 %"):
        accuracy.check(80.5)
