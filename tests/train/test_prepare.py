import logging

import numpy as np
import pytest
from PIL import Image

from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.prepare import prepare, typical_side, warn_of_large_images
from alphanet_zoo.zoo.files import save_net


def write_classes(root, side=20, count=10):
    for name in "abc":
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(np.full((side, side + 7, 3), index, np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def supernet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "supernet.safetensors"
    save_net(fill_live(build_supernet(ALPHANET_TINY, 10)), path)
    return path


def prepared(recipe, *overrides):
    notes = []
    return prepare(load_config(recipe, overrides), notes.append), notes


def test_a_complete_config_is_left_alone():
    config = load_config("digits")
    assert prepare(config, print) is config


def test_a_folder_of_classes_is_split(tmp_path):
    root = write_classes(tmp_path / "mine")
    config, notes = prepared("digits", "data.source=folder", f"data.root={root}")
    assert (config.data.train, config.data.hold_out) == (".", 6)
    assert notes == [
        f"{root} has no folder train: its 3 folders are the classes, and 6 of the 30 images are held out for validation"
    ]
    assert prepared("digits", "data.source=folder", f"data.root={root}", "data.hold_out=3")[0].data.hold_out == 3
    (root / "train").mkdir()
    assert prepared("digits", "data.source=folder", f"data.root={root}")[0].data.train == "train"
    assert prepared("digits", "data.source=folder", f"data.root={root / 'nowhere'}")[0].data.train == "train"


def test_the_space_fits_the_images_and_the_budget(tmp_path):
    root = write_classes(tmp_path / "mine", side=100)
    config, notes = prepared("own_images", f"data.root={root}")
    assert config.search_space.resolution == (64, 80, 96) and config.data.image_size == 96
    assert config.data.transform == "imagenet" and notes[1].startswith("images of 100 pixels")
    assert "135.6 M MACs" in notes[1]
    config, _ = prepared("own_images", f"data.root={root}", "budget=3M")
    assert max(config.search_space.resolution) == 16 and config.data.transform == "cifar"
    with pytest.raises(UsageError, match="pass at least budget=2.6M"):
        prepared("own_images", f"data.root={root}", "budget=1M")


def test_fine_tuning_takes_space_size_and_transform_from_the_net(supernet_file, tmp_path):
    root = write_classes(tmp_path / "mine")
    settings = [f"data.root={root}", f"finetune.weights={supernet_file}"]
    config, _ = prepared("finetune", *settings, "finetune.arch=smallest")
    assert (config.space, config.data.image_size, config.data.transform) == ("alphanet_tiny", 12, "affine")
    net = fill_live(build_supernet(ALPHANET_TINY, 10)).extract(ALPHANET_TINY.largest)
    net.pretrained_cfg["crop_pct"] = 1.0
    save_net(net, tmp_path / "static.safetensors")
    config, _ = prepared("finetune", f"data.root={root}", f"finetune.weights={tmp_path / 'static.safetensors'}")
    assert (config.data.image_size, config.data.transform) == (16, "cifar")
    with pytest.raises(UsageError, match=r"contains a supernet; .*finetune.arch=smallest"):
        prepared("finetune", *settings)
    with pytest.raises(UsageError, match=r"pass finetune.model=NAME or finetune.weights="):
        prepared("finetune", f"data.root={root}")
    with pytest.raises(UsageError, match=r"model and weights exclude each other; .*finetune.arch=alphanet_a0"):
        load_config("finetune", ["finetune.model=alphanet_a0", "finetune.weights=x"])
    with pytest.raises(AlphaNetError, match="alphanet_a0 are not published yet"):
        prepared("finetune", f"data.root={root}", "finetune.model=alphanet_a0")


def test_images_much_larger_than_the_space_cause_a_warning(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    config = load_config("digits")
    warn_of_large_images(config, FolderSource(write_classes(tmp_path / "small", side=31)))
    assert not caplog.records
    warn_of_large_images(config, FolderSource(write_classes(tmp_path / "large", side=32)))
    assert "median short side of 32 pixels" in caplog.text and "own_images" in caplog.text
    caplog.clear()
    warn_of_large_images(load_config("digits", ["data.image_size=224"]), FolderSource(tmp_path / "small"))
    assert "data.image_size is 224, and the largest resolution of the space alphanet_tiny is 16" in caplog.text
    caplog.clear()
    finetune = load_config("digits", ["finetune.weights=x"])
    warn_of_large_images(finetune, FolderSource(tmp_path / "large"))
    assert not caplog.records


def test_broken_images_do_not_count_for_the_size(tmp_path):
    source = FolderSource(write_classes(tmp_path, count=1))
    source.path(0).write_bytes(b"")
    assert typical_side(source) == 20
    for index in range(3):
        source.path(index).write_bytes(b"")
    with pytest.raises(AlphaNetError, match=f"no image of {tmp_path} can be decoded"):
        typical_side(source)
