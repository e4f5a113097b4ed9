"""From image files to a network's input."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.preprocess import ImageFolder, Preprocessing, read_image
from alphanet_zoo.errors import AlphaNetError, UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED = Preprocessing(224, 256, "bicubic", MEAN, STD)


def picture(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows % 256, columns % 256, (rows + columns) % 256], 2).astype("u1"))


def test_published_evaluation_by_hand() -> None:
    image = picture(640, 480)
    resized = image.resize((341, 256), Image.Resampling.BICUBIC)
    left, top = round((341 - 224) / 2), (256 - 224) // 2
    crop = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype="f4") / 255
    expected = torch.from_numpy((crop - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)
    torch.testing.assert_close(PUBLISHED(image), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_of_image(mode: str) -> None:
    image = Image.fromarray(np.full((50, 40), 300, "u2")) if mode == "I;16" else picture(40, 50).convert(mode)
    assert PUBLISHED(image).shape == (3, 224, 224)


def test_from_cfg_and_dict() -> None:
    cfg = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bicubic", "mean": MEAN, "std": STD}
    assert Preprocessing.from_cfg(cfg) == PUBLISHED
    assert Preprocessing.from_dict(PUBLISHED.to_dict()) == PUBLISHED
    assert PUBLISHED.to_dict()["mean"] == list(MEAN)
    assert PUBLISHED.for_size(192).resize_size == 219


@pytest.mark.parametrize(
    "change",
    [{"input_size": 300}, {"interpolation": "sharp"}, {"std": (0, 1, 1)}, {"mean": (1,)}, {"colour": 1}],
)
def test_bad_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Preprocessing.from_dict({**PUBLISHED.to_dict(), **change})


def make_folder(root: Path) -> Path:
    for name, count in (("b", 3), ("a", 4)):
        (root / name / "deeper").mkdir(parents=True)
        for i in range(count):
            picture(20 + i, 20).save(root / name / ("deeper" if i == 2 else ".") / f"{i}.png")
    (root / "a" / "notes.txt").write_text("no image")
    return root


def test_folder_order_and_batches(tmp_path: Path) -> None:
    folder = ImageFolder(make_folder(tmp_path))
    assert folder.classes == ["a", "b"] and len(folder) == 7
    assert [label for _, label in folder.samples] == [0, 0, 0, 0, 1, 1, 1]
    tiny = Preprocessing(8, 8, "bilinear", MEAN, STD)
    batches = list(folder.batches(tiny, 3))
    assert [tuple(images.shape) for images, _ in batches] == [(3, 3, 8, 8), (3, 3, 8, 8), (1, 3, 8, 8)]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 0, 1, 1, 1]
    images = torch.cat([images for images, _ in batches])
    assert torch.equal(images[4], tiny(read_image(folder.samples[4][0])))


def test_limit_sees_all_classes(tmp_path: Path) -> None:
    folder = ImageFolder(make_folder(tmp_path))
    labels = torch.cat([labels for _, labels in folder.batches(Preprocessing(8, 8, "nearest", MEAN, STD), 2, limit=4)])
    assert labels.tolist() == [0, 0, 0, 1]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(UsageError, match="holds no images"):
        ImageFolder(tmp_path)
    broken = tmp_path / "a" / "broken.png"
    broken.parent.mkdir()
    whole = tmp_path / "whole.png"
    picture(64, 64).save(whole)
    for content in (b"no image at all", whole.read_bytes()[:-40], b""):
        broken.write_bytes(content)
        with pytest.raises(AlphaNetError, match="broken.png"):
            list(ImageFolder(tmp_path).batches(PUBLISHED, 1))


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    picture(64, 64).save(path)
    for limit in (64 * 64 - 1, 1000):  # PIL warns above its limit, and raises above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings(action="ignore"), pytest.raises(AlphaNetError, match="bomb"):
            read_image(path)
