import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.cifar import CifarSource
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.image_folder import FolderSource
from alphanet_zoo.data.loader import TrainingBatches
from alphanet_zoo.data.preprocess import ImageFolder, Preprocessing, split_folder
from alphanet_zoo.data.sources import open_source
from alphanet_zoo.errors import AlphaNetError, UsageError

NAMES = [b"airplane", b"automobile", b"bird"]


def config_of(root, **settings):
    return DataConfig(root=str(root), image_size=32, batch_size=4, **settings)


def cifar_batch(seed, count=4):
    rng = np.random.default_rng(seed)
    return {b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), b"labels": [seed % 3] * count}


@pytest.fixture
def cifar(tmp_path):
    """CIFAR-10's files with four images each; one as Python 2 wrote it, with its names of NumPy's modules."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for i in range(1, 7):
        name = f"data_batch_{i}" if i < 6 else "test_batch"
        content = pickle.dumps(cifar_batch(i), protocol=2)
        (folder / name).write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": NAMES}, protocol=2))
    return tmp_path


def test_a_folder_gives_the_images_of_its_files(tmp_path):
    for name in ("b/2.png", "a/1.png", "b/x/ä.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (len(name), 0, 0)).save(tmp_path / name)
    source, folder = FolderSource(tmp_path), ImageFolder(tmp_path)
    assert source.classes == ["a", "b"] and source.labels.tolist() == [0, 1, 1]
    assert [source.path(i) for i in range(3)] == [path for path, _ in folder.samples]
    assert source.load(1).tolist() == [[[7] * 3] * 2, [[0] * 3] * 2, [[0] * 3] * 2]
    os.truncate(source.path(0), 10)
    with pytest.raises(AlphaNetError, match=r"1\.png"):
        source.load(0)


def test_cifar_is_read_as_its_authors_pack_it(cifar):
    train, val = CifarSource(cifar, "train"), CifarSource(cifar, "val")
    assert train.classes == ["airplane", "automobile", "bird"] and len(train.labels) == 20 and len(val.labels) == 4
    assert train.labels.tolist() == [1] * 4 + [2] * 4 + [0] * 4 + [1] * 4 + [2] * 4
    expected = cifar_batch(3)[b"data"][2].reshape(3, 32, 32)
    assert np.array_equal(train.load(10), expected)
    assert np.array_equal(val.load(0), cifar_batch(6)[b"data"][0].reshape(3, 32, 32))


@pytest.mark.parametrize("inside", [False, True])
def test_the_config_finds_cifar_beside_or_at_its_root(cifar, inside):
    root = cifar / "cifar-10-batches-py" if inside else cifar
    config = config_of(root, source="cifar10", transform="cifar", autoaugment=True)
    assert len(open_source(config).labels) == 20 and len(open_source(config, "val").labels) == 4
    preprocessing = Preprocessing(224, 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    batches = TrainingBatches(config, preprocessing, 0)
    assert batches.steps_per_epoch == 5 and batches.batch(0).images.shape == (4, 3, 32, 32)


def test_cifar_may_be_a_folder_of_images(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / split / "x").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / split / "x" / f"{name}.png")
    for split in ("train", "val"):
        assert len(open_source(config_of(tmp_path, source="cifar10"), split).labels) == 1


def test_where_there_is_no_cifar_it_says_how_to_get_it(tmp_path):
    with pytest.raises(UsageError, match=r"data.download=true"):
        open_source(config_of(tmp_path, source="cifar10"))
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UsageError, match=r"no such file: .*batches\.meta"):
        open_source(config_of(tmp_path, source="cifar10"))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Harmful()), b"", pickle.dumps([1]), pickle.dumps({b"labels": [1]}),
     pickle.dumps(cifar_batch(1))[:100], pickle.dumps(cifar_batch(1) | {b"labels": [7] * 4}),
     pickle.dumps(cifar_batch(1) | {b"labels": [1] * 3})],
    ids=["harmful", "empty", "list", "no data", "cut", "label", "count"],
)  # fmt: skip
def test_what_is_not_cifar_is_refused_and_runs_nothing(cifar, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (cifar / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    with pytest.raises(AlphaNetError, match="download"):
        CifarSource(cifar, "train")
    assert not (tmp_path / "harm").exists()


def test_digits_are_written_first(tmp_path):
    source = open_source(config_of(tmp_path / "digits", source="digits"))
    assert len(source.labels) == 1197 and source.classes == [str(i) for i in range(10)]
    assert source.load(0).shape == (3, 10, 10) and source.load(0).dtype == torch.uint8
    assert len(open_source(config_of(tmp_path / "digits", source="digits"), "val").labels) == 300


def test_images_held_out_are_even_over_the_classes_and_take_the_place_of_val(tmp_path):
    for index in range(30):
        path = tmp_path / "train" / "abc"[index % 3] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, 0, 0)).save(path)
    train, val = (open_source(config_of(tmp_path, hold_out=10), split) for split in ("train", "val"))
    shown = [[int(source.load(i)[0, 0, 0]) for i in range(len(source.labels))] for source in (train, val)]
    assert len(shown[0]) == 20 and sorted(shown[0] + shown[1]) == list(range(30))
    assert all(
        source.labels.tolist() == [k % 3 for k in seen] for source, seen in zip((train, val), shown, strict=True)
    )
    assert sorted(np.bincount(val.labels)) == [3, 3, 4] and train.classes == val.classes == ["a", "b", "c"]
    parts = split_folder(ImageFolder(tmp_path / "train"), 10)
    assert [[int(path.stem) for path, _ in part.samples] for part in parts] == shown
    for count in (30, 31):
        with pytest.raises(UsageError, match=f"has 30 images, and {count} are to be held out"):
            open_source(config_of(tmp_path, hold_out=count))
