from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.augment import ImageNetTransform
from alphanet_zoo.data.calibration import BATCH_SIZE, calibration_batches, calibration_order
from alphanet_zoo.data.draws import generator
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError

PREPROCESSING = Preprocessing(12, 14, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def write_images(root: Path, count: int, side: int = 20) -> FolderSource:
    """``count`` images in two classes, image i of the brightness i."""
    for i in range(count):
        folder = root / ("a" if i < count // 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side, 3), i % 256, np.uint8)).save(folder / f"{i:04d}.png")
    return FolderSource(root)


def brightness(batch: torch.Tensor) -> list[int]:
    return [round(float(v)) for v in (batch.mean((1, 2, 3)) * 0.25 + 0.5) * 255]


def test_images_are_mixed_and_drawn_once(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 60)
    (batch,) = calibration_batches(folder, PREPROCESSING, seed=3)
    assert batch.shape == (60, 3, 12, 12)
    assert sorted(brightness(batch)) == list(range(60)) != brightness(batch)
    (again,) = calibration_batches(folder, PREPROCESSING, seed=3)
    (other,) = calibration_batches(folder, PREPROCESSING, seed=4)
    assert torch.equal(batch, again) and not torch.equal(batch, other)
    (few,) = calibration_batches(folder, PREPROCESSING, images=10, seed=3)
    assert torch.equal(few, batch[:10])
    assert {value // 30 for value in brightness(few)} == {0, 1}


def test_all_images_are_used_in_batches_of_equal_size(tmp_path: Path) -> None:
    folder = write_images(tmp_path, BATCH_SIZE + 5, side=12)
    assert [len(batch) for batch in calibration_batches(folder, PREPROCESSING)] == [131, 130]
    assert [len(batch) for batch in calibration_order(899)] == [225, 225, 225, 224]
    assert [len(batch) for batch in calibration_order(50_000)] == [256] * 64


def test_the_order_is_a_seeded_permutation() -> None:
    expected = np.random.Generator(np.random.PCG64(5)).permutation(20)
    for images, sizes in ((None, [7, 7, 6]), (16, [8, 8]), (9, [5, 4]), (5, [5])):
        order = calibration_order(20, images=images, batch_size=8, seed=5)
        assert [len(batch) for batch in order] == sizes
        assert np.concatenate(order).tolist() == expected[:images].tolist()
    for settings in ({"images": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            calibration_order(20, **settings)  # type: ignore[arg-type]


def test_batches_have_at_most_the_size_that_is_requested(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 20)
    batches = list(calibration_batches(folder, PREPROCESSING, images=None, batch_size=8))
    (whole,) = calibration_batches(folder, PREPROCESSING, images=None, batch_size=20)
    assert [len(batch) for batch in batches] == [7, 7, 6] and torch.equal(torch.cat(batches), whole)


def test_few_images_cause_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_images(tmp_path, 20, side=12)
    for _ in range(2):
        list(calibration_batches(folder, PREPROCESSING, images=12))
    (warning,) = [record.getMessage() for record in caplog.records if "calibration" in record.getMessage()]
    assert f"12 of the 20 images of {tmp_path}; with fewer than 2,048" in warning


def test_augmentation_is_the_training_transform_as_a_function_of_the_seed_and_the_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(6):
        path = tmp_path / "a" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    folder, state = FolderSource(tmp_path), torch.random.get_rng_state()
    (batch,) = calibration_batches(folder, PREPROCESSING, seed=2, augment=True)
    transform, order = ImageNetTransform(12, autoaugment=True), calibration_order(6, seed=2)[0]
    expected = [transform(folder.load(index), generator(2, "calibration", index)) for index in map(int, order)]
    assert torch.equal(batch, PREPROCESSING.normalise(torch.stack(expected)))
    (again,) = calibration_batches(folder, PREPROCESSING, images=3, seed=2, augment=True)
    (other,) = calibration_batches(folder, PREPROCESSING, seed=3, augment=True)
    (plain,) = calibration_batches(folder, PREPROCESSING, seed=2)
    assert torch.equal(again, batch[:3]) and not torch.equal(plain, batch)
    assert not torch.equal(batch[order.argsort()], other[calibration_order(6, seed=3)[0].argsort()])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_broken_image_is_replaced_by_the_next_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_images(tmp_path, 5)
    (whole,) = calibration_batches(folder, PREPROCESSING)
    order = calibration_order(5)[0].tolist()
    for place in (4, 1):  # The last one is replaced by the first.
        path = folder.path(order[place])
        content = path.read_bytes()
        path.write_bytes(b"no image")
        (batch,) = calibration_batches(folder, PREPROCESSING)
        others = [i for i in range(5) if i != place]
        assert torch.equal(batch[others], whole[others]) and torch.equal(batch[place], whole[(place + 1) % 5])
        assert sum(str(path) in record.getMessage() for record in caplog.records) == 1
        path.write_bytes(content)


def test_more_broken_images_are_an_error_that_names_them(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 5)
    for index in (1, 3):
        folder.path(index).write_bytes(b"no image")
    with pytest.raises(AlphaNetError, match=rf"2 of the 5 images .*{folder.path(1).name}.*{folder.path(3).name}"):
        list(calibration_batches(folder, PREPROCESSING))
