import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.train import data
from alphanet_zoo.train.config import DataConfig
from alphanet_zoo.train.data import TrainingBatches, decode_folder, warp
from alphanet_zoo.zoo.preprocess import ImageFolder, Preprocessing

PLAIN = Preprocessing(16, 18, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for index in range(22):
        path = folder / "train" / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder


def batches_of(root, seed=0, preprocessing=PLAIN, **settings):
    config = DataConfig(**{"root": str(root), "image_size": 16, "batch_size": 5} | settings)
    return TrainingBatches(config, preprocessing, seed)


def test_an_epoch_shows_each_image_at_most_once_in_whole_batches(root):
    batches = batches_of(root)
    assert batches.steps_per_epoch == 4 and batches.classes == ["a", "b"]
    for epoch in (0, 1):
        seen = [batches.batch(step) for step in range(4 * epoch, 4 * epoch + 4)]
        indices = [index for batch in seen for index in batch.indices]
        assert len(set(indices)) == 20 and {batch.epoch for batch in seen} == {epoch}
        assert all(batch.images.shape == (5, 3, 16, 16) and batch.images.dtype == torch.float32 for batch in seen)


def test_a_batch_depends_on_seed_and_step_alone(root):
    varied = {"rotate_degrees": 10, "shift": 0.1, "zoom": 0.1}
    first = batches_of(root, **varied)
    for step in (7, 0, 3):
        again = batches_of(root, **varied).batch(step)
        assert torch.equal(first.batch(step).images, again.images) and first.batch(step).indices == again.indices
        assert not torch.equal(batches_of(root, seed=1, **varied).batch(step).images, again.images)


def test_an_image_is_varied_by_epoch_and_index_whatever_its_place_in_a_batch(root):
    varied = {"rotate_degrees": 10, "shift": 0.1, "zoom": 0.1}

    def by_key(batch_size):
        batches = batches_of(root, batch_size=batch_size, **varied)
        found = {}
        for step in range(2 * batches.steps_per_epoch):
            batch = batches.batch(step)
            found |= {(batch.epoch, index): image for index, image in zip(batch.indices, batch.images, strict=True)}
        return found

    fives, elevens = by_key(5), by_key(11)
    shared = set(fives) & set(elevens)
    assert len(shared) > 30
    for key in shared:
        torch.testing.assert_close(fives[key], elevens[key])
    twice = [index for epoch, index in fives if epoch == 0 and (1, index) in fives]
    assert not any(torch.equal(fives[0, index], fives[1, index]) for index in twice)


def test_labels_and_pixels_are_those_of_the_files(root):
    preprocessing = Preprocessing(16, 18, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    batch = batches_of(root, preprocessing=preprocessing).batch(2)
    folder = ImageFolder(root / "train")
    for index, image, label in zip(batch.indices, batch.images, batch.labels, strict=True):
        path, expected = folder.samples[index]
        assert label == expected
        torch.testing.assert_close(image, preprocessing(Image.open(path)), rtol=0, atol=1e-5)


def test_decoding_keeps_every_grey_exactly(tmp_path):
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / "a").mkdir()
    Image.fromarray(greys).save(tmp_path / "a" / "greys.png")
    images, labels = decode_folder(ImageFolder(tmp_path), Preprocessing(16, 16, "bicubic", (0,) * 3, (1,) * 3))
    assert torch.equal(images[0, 0], torch.from_numpy(greys)) and labels.tolist() == [0]


def test_warp_moves_turns_and_scales():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    same = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(warp(image, same), image)
    right = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]])
    assert warp(image, right)[0, 0, 0].tolist() == pytest.approx([1, 2, 3, 3])
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])
    torch.testing.assert_close(warp(image, turned)[0, 0], torch.rot90(image[0, 0], 1), rtol=0, atol=1e-5)


def test_wrong_folders_are_refused(root, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no such folder"):
        batches_of(tmp_path / "none")
    with pytest.raises(UsageError, match=r"22 images, fewer than data.batch_size 23"):
        batches_of(root, batch_size=23)
    monkeypatch.setattr(data, "MEMORY_LIMIT", 16_000)
    with pytest.raises(UsageError, match="data.image_size"):
        batches_of(root)


def test_a_broken_image_is_named(tmp_path):
    path = tmp_path / "train" / "a" / "broken.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(AlphaNetError, match=r"broken\.png"):
        batches_of(tmp_path, batch_size=1)
