from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_export.calibration_data import BATCH_SIZE, augmented, calibration_batches
from alphanet_zoo.data.preprocess import ImageFolder, Preprocessing, read_image
from alphanet_zoo.errors import AlphaNetError

PREPROCESSING = Preprocessing(12, 14, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def write_images(root: Path, count: int, side: int = 20) -> ImageFolder:
    """``count`` images in two classes, image i of the brightness i."""
    for i in range(count):
        folder = root / ("a" if i < count // 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side, 3), i % 256, np.uint8)).save(folder / f"{i:04d}.png")
    return ImageFolder(root)


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


def test_augmentation_is_a_function_of_the_seed_and_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8))
    state = torch.random.get_rng_state()
    variants = [augmented(image, PREPROCESSING, seed=(0, i)) for i in range(8)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(v.shape == (3, 12, 12) and v.dtype == torch.float32 for v in variants)
    assert torch.equal(variants[5], augmented(image, PREPROCESSING, seed=(0, 5)))
    assert len({v.numpy().tobytes() for v in variants}) == 8
    folder = write_images(tmp_path, 4)
    (batch,) = calibration_batches(folder, PREPROCESSING, augment=True)
    order = np.random.Generator(np.random.PCG64(0)).permutation(4)
    expected = [augmented(read_image(folder.samples[i][0]), PREPROCESSING, seed=(0, int(i))) for i in order]
    assert torch.equal(batch, torch.stack(expected))


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 3)
    folder.samples[1][0].write_bytes(b"no image")
    with pytest.raises(AlphaNetError, match=folder.samples[1][0].name):
        list(calibration_batches(folder, PREPROCESSING))
