import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import image_side, open_source, split_hold_out, spread, subset
from alphanet_zoo.errors import AlphaNetError, UsageError


def config_of(root, **settings):
    return DataConfig(root=str(root), image_size=32, batch_size=4, **settings)


def test_a_folder_gives_the_images_of_its_files(tmp_path):
    for name in ("b/2.png", "a/1.png", "b/x/ä.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (len(name), 0, 0)).save(tmp_path / name)
    source = FolderSource(tmp_path)
    assert source.classes == ["a", "b"] and source.labels.tolist() == [0, 1, 1]
    assert [source.path(i) for i in range(3)] == [tmp_path / name for name in ("a/1.png", "b/2.png", "b/x/ä.png")]
    assert source.load(1).tolist() == [[[7] * 3] * 2, [[0] * 3] * 2, [[0] * 3] * 2]
    source.path(0).write_bytes(source.path(0).read_bytes()[:10])
    with pytest.raises(AlphaNetError, match=r"1\.png"):
        source.load(0)


def greys(source):
    return [int(source.load(index)[0, 0, 0]) for index in range(len(source))]


@pytest.fixture
def ten(tmp_path):
    """Ten images, image i of the grey level i, in two classes."""
    for index in range(10):
        path = tmp_path / "train" / "ab"[index // 7] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, 0, 0)).save(path)
    return FolderSource(tmp_path / "train")


def test_a_subset_has_some_images_in_any_order_and_all_classes(ten):
    part = subset(ten, [8, 2, 2], "mine")
    assert greys(part) == [8, 2, 2] and part.labels.tolist() == [1, 0, 0] and part.classes == ["a", "b"]
    assert (part.name, subset(ten, [1]).name) == ("mine", ten.name)
    assert greys(subset(part, np.array([1, 0]))) == [2, 8]


def test_a_limit_is_spread_over_all_classes(ten):
    assert greys(spread(ten, 4)) == [0, 2, 5, 7] and spread(ten, 4).labels.tolist() == [0, 0, 0, 1]
    assert spread(ten, None) is ten and spread(ten, 10) is ten and spread(ten, 99) is ten
    with pytest.raises(ValueError, match="limit is 0"):
        spread(ten, 0)


def test_digits_in_memory_are_those_of_the_folder(tmp_path):
    folder = write_digits(tmp_path / "digits")
    for split, images in (("train", 1197), ("val", 300)):
        memory = open_source(DataConfig(source="digits", image_size=16, batch_size=4), split)
        files = open_source(config_of(folder, source="digits"), split)
        assert len(memory) == len(files) == images and memory.classes == files.classes
        assert torch.equal(memory.labels, files.labels)
        for index in range(0, images, 29):
            assert torch.equal(memory.load(index), files.load(index)) and memory.load(index).dtype == torch.uint8
    with pytest.raises(UsageError, match="no split 'all'; pass one of train, val, test"):
        open_source(DataConfig(source="digits", image_size=16, batch_size=4, train="all"))


def test_digits_are_not_looked_for_in_a_folder_of_other_images(ten, tmp_path):
    with pytest.raises(UsageError, match=r"contains other images.*add data.source=folder"):
        open_source(config_of(tmp_path, source="digits"))
    with pytest.raises(UsageError, match=r"no such folder.*add data.source=folder"):
        open_source(config_of(tmp_path / "nowhere", source="digits"))
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="pass data.root=FOLDER"):
        DataConfig(image_size=16, batch_size=4)


def test_the_short_side_is_read_from_headers(tmp_path):
    for index, size in enumerate([(30, 20), (10, 40), (50, 50)]):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / "a" / f"{index}.jpg")
    source = FolderSource(tmp_path)
    assert [image_side(source, index) for index in range(3)] == [20, 10, 50]
    assert image_side(subset(source, [2, 1]), 1) == 10
    path = source.path(0)
    path.write_bytes(path.read_bytes()[:-5])  # Pixels are not decoded.
    assert image_side(source, 0) == 20
    path.write_bytes(b"")
    assert image_side(source, 0) is None


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
    parts = split_hold_out(FolderSource(tmp_path / "train"), 10)
    assert [greys(part) for part in parts] == shown
    assert shown[1] == [3, 6, 9, 21, 7, 13, 19, 5, 8, 17]  # the same choice in every version
    for count in (30, 31):
        with pytest.raises(UsageError, match=f"has 30 images, and {count} are to be held out"):
            open_source(config_of(tmp_path, hold_out=count))
