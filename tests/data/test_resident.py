"""Images kept on the device: the same bits as the engine that varies them one by one."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data import reader
from alphanet_zoo.data.batches import TrainingBatches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.reader import Batch, ResidentImages, Windows
from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.train.config import DataConfig, load_config
from alphanet_zoo.train.loop import train

MEANT = Preprocessing(16, 18, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
VARIED: dict[str, dict[str, Any]] = {
    "affine": {"rotate_degrees": 10, "shift": 0.1, "zoom": 0.1},
    "cifar": {"transform": "cifar"},
    "erasing": {"transform": "cifar", "erasing": 0.5},
    "affine_erasing": {"shift": 0.1, "erasing": 0.5},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(22):
        path = tmp_path / "images" / "train" / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def batches_of(root: Path, rank: int = 0, world_size: int = 1, **settings: Any) -> TrainingBatches:
    config = DataConfig(**{"root": str(root), "image_size": 16, "batch_size": 6, "engine": "device"} | settings)
    return TrainingBatches(config, MEANT, 3, rank=rank, world_size=world_size)


def same(one: Batch, other: Batch) -> bool:
    return (one.epoch, one.indices) == (other.epoch, other.indices) and all(
        torch.equal(a, b) for a, b in ((one.images, other.images), (one.labels, other.labels))
    )


def test_windows_are_cut_and_flipped_by_hand() -> None:
    images = torch.arange(1, 28, dtype=torch.uint8).view(1, 3, 3, 3).repeat(2, 1, 1, 1)
    images[1] += 100
    windows = Windows(
        torch.tensor([1, 0, 0]), torch.tensor([[1, 1], [0, 2], [1, 0]]), torch.tensor([False, False, True]),
        torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 3, 2]]),
    )  # fmt: skip
    fill = torch.tensor([200, 201, 202], dtype=torch.uint8)
    taken = ResidentImages(images, 1, fill).take(windows, torch.device("cpu"))
    assert torch.equal(taken[0], images[1]) and taken.is_contiguous(memory_format=torch.channels_last)
    assert taken[1, 0].tolist() == [[5, 6, 5], [2, 3, 2], [5, 6, 5]]
    assert taken[2, 1].tolist() == [[11, 10, 11], [201, 201, 14], [201, 201, 17]]


@pytest.mark.parametrize("name", VARIED)
def test_the_bits_are_those_of_images_varied_one_by_one(root: Path, name: str) -> None:
    resident, single = batches_of(root, **VARIED[name]), batches_of(root, engine="torch", **VARIED[name])
    assert all(same(resident.batch(step), single.batch(step)) for step in range(8))
    assert resident.batch(0).images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", VARIED)
def test_any_number_of_workers_and_processes_gives_the_same_bits_from_any_step(root: Path, name: str) -> None:
    direct = batches_of(root, **VARIED[name])
    expected = [direct.batch(step) for step in range(8)]
    with closing(batches_of(root, workers=2, **VARIED[name]).stream(3, 8)) as stream:
        assert all(same(*pair) for pair in zip(stream, expected[3:], strict=True))
    shares = [batches_of(root, rank, 2, **VARIED[name]).batch(4) for rank in range(2)]
    for own, part in zip(shares, expected[4].split(2), strict=True):
        assert own.indices == part.indices and torch.equal(own.labels, part.labels)
        torch.testing.assert_close(own.images, part.images, rtol=0, atol=0 if "transform" in VARIED[name] else 1e-6)


@pytest.mark.parametrize("engine", ["torch", "device"])
def test_erasing_fills_boxes_with_the_mean_colour_and_changes_nothing_else(root: Path, engine: str) -> None:
    settings = {"transform": "cifar", "engine": engine}
    plain, erased = (batches_of(root, **settings, erasing=share) for share in (0.0, 1.0))
    for step in range(4):
        before, after = plain.batch(step).images, erased.batch(step).images
        filled = (after.abs() < 0.5 / 255 / 0.2).all(1)
        assert torch.equal(torch.where(filled[:, None], 0, before), torch.where(filled[:, None], 0, after))
        assert all(0.01 < share < 0.37 for share in filled.float().mean((1, 2)).tolist())


def test_an_image_is_varied_by_epoch_and_index_whatever_its_place_in_a_batch(root: Path) -> None:
    def by_key(batch_size: int) -> dict[tuple[int, int], torch.Tensor]:
        batches = batches_of(root, batch_size=batch_size, transform="cifar")
        found = (batches.batch(step) for step in range(2 * batches.steps_per_epoch))
        return {(b.epoch, index): image for b in found for index, image in zip(b.indices, b.images, strict=True)}

    fives, elevens = by_key(5), by_key(11)
    shared = set(fives) & set(elevens)
    assert len(shared) > 30 and all(torch.equal(fives[key], elevens[key]) for key in shared)
    twice = [index for epoch, index in fives if epoch == 0 and (1, index) in fives]
    assert sum(torch.equal(fives[0, index], fives[1, index]) for index in twice) < len(twice) / 4


def test_a_broken_image_has_the_substitute_of_the_other_engine(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = FolderSource(root / "train").path(3)
    path.write_bytes(path.read_bytes()[:50])
    resident, single = (batches_of(root, engine=engine, transform="cifar") for engine in ("device", "torch"))
    with caplog.at_level(logging.WARNING):
        assert all(same(resident.batch(step), single.batch(step)) for step in range(6))
    assert list(resident.broken.messages) == [3] and path.name in resident.broken.messages[3]


def test_a_run_that_is_stopped_ends_with_the_bytes_of_one_that_is_not_and_of_the_other_engine(
    root: Path, tmp_path: Path
) -> None:
    def run(name: str, *more: str, **arguments: Any) -> Any:
        settings = [
            f"data.root={root}", f"output={tmp_path / name}", "data.source=folder", "data.batch_size=4",
            "data.transform=cifar", "data.rotate_degrees=0", "data.shift=0", "data.zoom=0", "data.image_size=16",
            "optim.epochs=1", "optim.warmup_epochs=0", "log.progress=false", "device=cpu", "max_steps=3",
        ]  # fmt: skip
        return train(load_config("digits", [*settings, *more]), **arguments)

    whole = run("whole", "data.engine=device")
    for step in (1, 2):
        stopped = run("parts", "data.engine=device", time_limit=1e-9)
        assert (stopped.step, stopped.model, stopped.signal) == (step, None, 15)
    resumed, single = run("parts", "data.engine=device"), run("single", "data.engine=torch")
    assert sha256_of(resumed.model) == sha256_of(whole.model)
    assert sha256_of(single.model) == sha256_of(whole.model)


def test_images_that_are_too_many_and_transforms_that_do_not_fit_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MEMORY_LIMIT", 22 * 3 * 16**2 - 1)
    with pytest.raises(UsageError, match=r"takes 16,896 bytes, more than .* use data.engine=torch"):
        batches_of(root, transform="cifar")
    for settings in ({"transform": "imagenet"}, {"transform": "cifar", "autoaugment": True}):
        with pytest.raises(ValueError, match="engine=device requires transform=affine or cifar, and autoaugment=false"):
            batches_of(root, **settings)
