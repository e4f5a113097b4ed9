"""From decoded images to a network's input."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from alphanet_zoo.data import preprocess
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED = Preprocessing(224, 256, "bicubic", MEAN, STD)


def picture(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows % 256, columns % 256, (rows + columns) % 256], 2).astype("u1"))


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_published_evaluation_by_hand() -> None:
    image = picture(640, 480)
    resized = image.resize((341, 256), Image.Resampling.BICUBIC)
    left, top = round((341 - 224) / 2), (256 - 224) // 2
    crop = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype="f4") / 255
    expected = torch.from_numpy((crop - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)
    torch.testing.assert_close(PUBLISHED(tensor(image)), expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize("size", [(640, 480), (333, 500), (256, 256), (40, 50), (100, 700), (31, 30)])
def test_the_bits_are_those_of_torchvision_on_pillow_images(interpolation: str, size: tuple[int, int]) -> None:
    image, own = picture(*size), Preprocessing(224, 256, interpolation, MEAN, STD)
    resized = TF.resize(image, [256], InterpolationMode(interpolation), antialias=True)
    pixels = TF.pil_to_tensor(TF.center_crop(resized, [224, 224]))
    assert torch.equal(own.pixels(tensor(image)), pixels)
    expected = TF.normalize(TF.to_dtype(pixels, torch.float32, scale=True), list(MEAN), list(STD))
    assert torch.equal(own(tensor(image)), expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 400), (400, 3), (300, 2500), (1, 90), (20, 200)])
def test_a_long_image_has_the_pixels_of_a_resize_of_the_whole(
    interpolation: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, size[1], size[0]), dtype=np.uint8))
    own = Preprocessing(56, 64, interpolation, MEAN, STD)
    cropped = own.pixels(image)
    monkeypatch.setattr(preprocess, "LONGEST_SIDE", 10**6)
    whole = own.pixels(image)
    assert cropped.shape == whole.shape == (3, 56, 56)
    difference = (cropped.int() - whole.int()).abs()
    if interpolation == "nearest":
        assert (difference > 0).float().mean() < 0.05
    else:
        assert difference.max() <= 1


def test_a_thin_image_takes_little_memory_and_time() -> None:
    script = (
        "import resource, torch\n"
        "from alphanet_zoo.data.preprocess import Preprocessing\n"
        "own = Preprocessing(224, 256, 'bicubic', (0.5,) * 3, (0.5,) * 3)\n"
        "own(torch.zeros(3, 300, 300, dtype=torch.uint8))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for shape in ((3, 20000, 3), (3, 1, 80000)):\n"
        "    assert own(torch.zeros(shape, dtype=torch.uint8)).shape == (3, 224, 224)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    began = time.process_time() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200)
    assert int(done.stdout) < 100 * 1024  # KiB; the whole resized image would take 1.3 GB
    assert time.process_time() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began < 60


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 8), (8, 8), (3, 0, 8)])
def test_what_is_not_an_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"pass uint8 of shape \(3, H, W\)"):
        PUBLISHED(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(UsageError, match="float32"):
        PUBLISHED(torch.zeros(3, 8, 8))


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
