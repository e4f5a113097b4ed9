import sys

import numpy as np
import pytest
from PIL import Image

from alphanet_zoo.data.digits import SPLITS, split_indices, write_digits
from alphanet_zoo.data.folder import FolderSource, list_images
from alphanet_zoo.errors import MissingDependencyError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "data")


def test_every_scan_is_in_one_split(root):
    names = {split: {path.name for path in list_images(root / split)} for split in SPLITS}
    assert {split: len(found) for split, found in names.items()} == SPLITS == {"train": 1197, "val": 300, "test": 300}
    assert len(set().union(*names.values())) == 1797


def test_the_images_are_the_scans_with_a_blank_border(root):
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder = FolderSource(root / "val")
    assert folder.classes == [str(digit) for digit in range(10)]
    for place in range(0, len(folder), 30):
        index = int(folder.path(place).stem)
        image = np.asarray(Image.open(folder.path(place)))
        assert image.shape == (10, 10) and folder.labels[place] == digits.target[index]
        np.testing.assert_allclose(image[1:-1, 1:-1] / 255 * 16, digits.images[index], atol=0.04)
        assert image.sum() == image[1:-1, 1:-1].sum()


def test_the_split_is_fixed_and_even():
    labels = np.repeat(np.arange(10), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    split = split_indices(labels)
    for name, size in SPLITS.items():
        shares = np.bincount(labels[split[name]], minlength=10) / np.bincount(labels)
        assert np.abs(shares * 180 - size / 10).max() < 1.5
    assert split == split_indices(labels)


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    assert write_digits(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_without_scikit_learn_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"alphanet-zoo\[demo\]"):
        write_digits(tmp_path / "digits")
    assert not list(tmp_path.iterdir())
