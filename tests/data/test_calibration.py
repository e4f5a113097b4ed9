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


def test_batches_are_whole(tmp_path: Path) -> None:
    folder = write_images(tmp_path, BATCH_SIZE + 5, side=12)
    assert [len(batch) for batch in calibration_batches(folder, PREPROCESSING)] == [BATCH_SIZE]


def test_the_order_is_a_seeded_permutation_of_whole_batches() -> None:
    expected = np.random.Generator(np.random.PCG64(5)).permutation(20)
    assert calibration_order(20, images=None, batch_size=8, seed=5).tolist() == expected[:16].tolist()
    assert calibration_order(20, images=9, batch_size=8, seed=5).tolist() == expected[:8].tolist()
    assert calibration_order(20, images=5, batch_size=8, seed=5).tolist() == expected[:5].tolist()
    for settings in ({"images": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            calibration_order(20, **settings)  # type: ignore[arg-type]


def test_batches_have_the_size_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 20)
    batches = list(calibration_batches(folder, PREPROCESSING, images=None, batch_size=8))
    (whole,) = calibration_batches(folder, PREPROCESSING, images=None, batch_size=20)
    assert [len(batch) for batch in batches] == [8, 8] and torch.equal(torch.cat(batches), whole[:16])


def test_augmentation_is_the_training_transform_as_a_function_of_the_seed_and_the_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(6):
        path = tmp_path / "a" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    folder, state = FolderSource(tmp_path), torch.random.get_rng_state()
    (batch,) = calibration_batches(folder, PREPROCESSING, seed=2, augment=True)
    transform, order = ImageNetTransform(12, autoaugment=True), calibration_order(6, seed=2)
    expected = [transform(folder.load(index), generator(2, "calibration", index)) for index in map(int, order)]
    assert torch.equal(batch, PREPROCESSING.normalise(torch.stack(expected)))
    (again,) = calibration_batches(folder, PREPROCESSING, images=3, seed=2, augment=True)
    (other,) = calibration_batches(folder, PREPROCESSING, seed=3, augment=True)
    (plain,) = calibration_batches(folder, PREPROCESSING, seed=2)
    assert torch.equal(again, batch[:3]) and not torch.equal(plain, batch)
    assert not torch.equal(batch[order.argsort()], other[calibration_order(6, seed=3).argsort()])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 3)
    folder.path(1).write_bytes(b"no image")
    with pytest.raises(AlphaNetError, match=folder.path(1).name):
        list(calibration_batches(folder, PREPROCESSING))
