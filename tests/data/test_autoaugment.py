import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import AutoAugmentPolicy
from torchvision.transforms import functional as V1
from torchvision.transforms.v2 import AutoAugment
from torchvision.transforms.v2 import functional as TF

from alphanet_zoo.data.autoaugment import CIFAR10, IMAGENET, apply_operations, draw_operations

RNG = np.random.default_rng(0)
PIXELS = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((61, 47)))
DIM = (PIXELS // 3 + 40).astype(np.uint8)
FLAT = np.full((9, 11, 3), 77, dtype=np.uint8)


def tensor(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def applied(pixels, name, magnitude):
    result = apply_operations(tensor(pixels), ((name, magnitude),))
    assert result.dtype == torch.uint8 and result.shape == (3, *pixels.shape[:2])
    return result.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("pixels", [PIXELS, DIM, FLAT], ids=["full", "dim", "flat"])
def test_tables_do_what_pillow_does(pixels):
    image = Image.fromarray(pixels)
    assert np.array_equal(applied(pixels, "equalize", 0.0), np.asarray(ImageOps.equalize(image)))
    difference = applied(pixels, "autocontrast", 0.0).astype(int) - np.asarray(ImageOps.autocontrast(image))
    assert np.abs(difference).max() <= 1
    assert np.array_equal(applied(pixels, "solarize", 100.0), np.where(pixels >= 100, 255 - pixels, pixels))
    assert np.array_equal(applied(pixels, "invert", 0.0), 255 - pixels)
    assert np.array_equal(applied(pixels, "posterize", 3.0), pixels & 0b11100000)


@pytest.mark.parametrize(
    ("name", "function"),
    [("color", TF.adjust_saturation), ("contrast", TF.adjust_contrast), ("brightness", TF.adjust_brightness),
     ("sharpness", TF.adjust_sharpness)],
)  # fmt: skip
@pytest.mark.parametrize("magnitude", [-0.8, 0.0, 0.5])
def test_factors_are_torchvisions(name, function, magnitude):
    expected = function(tensor(PIXELS), 1.0 + magnitude).permute(1, 2, 0)
    assert np.array_equal(applied(PIXELS, name, magnitude), expected)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_geometry_is_that_of_torchvision_on_pillow_images(sign):
    image, (height, width, _) = Image.fromarray(PIXELS), PIXELS.shape

    def affine(translate=(0, 0), shear=(0.0, 0.0), center=None):
        return np.asarray(V1.affine(image, 0.0, list(translate), 1.0, list(shear), center=center))

    degrees = math.degrees(math.atan(0.2 * sign))
    expected = {
        ("rotate", 20.0 * sign): np.asarray(V1.rotate(image, 20.0 * sign)),
        ("shear_x", 0.2 * sign): affine(shear=(degrees, 0.0), center=[0, 0]),
        ("shear_y", 0.2 * sign): affine(shear=(0.0, degrees), center=[0, 0]),
        ("translate_x", 0.3 * sign): affine(translate=(int(0.3 * sign * width), 0)),
        ("translate_y", 0.3 * sign): affine(translate=(0, int(0.3 * sign * height))),
    }
    for (name, magnitude), pixels in expected.items():
        different = (applied(PIXELS, name, magnitude) != pixels).any(axis=2).mean()
        assert different < 0.02, (name, different)


@pytest.mark.parametrize(("ours", "name"), [(IMAGENET, "IMAGENET"), (CIFAR10, "CIFAR10")])
def test_the_policies_are_the_published_ones(ours, name):
    theirs = AutoAugmentPolicy[name]
    unused = {"equalize", "autocontrast", "invert"}
    expected = [
        [("".join("_" + c.lower() if c in "XY" else c.lower() for c in name), p, level) for name, p, level in pair]
        for pair in AutoAugment(theirs)._get_policies(theirs)
    ]
    found = [[(name, p, None if name in unused else level) for name, p, level in pair] for pair in ours]
    assert found == expected


def test_draws_follow_their_probabilities_and_signs():
    pair = IMAGENET.index((("rotate", 0.8, 8), ("color", 1.0, 2)))
    first = (pair + 0.5) / 25
    assert draw_operations(IMAGENET, [first, 0.79, 0.4, 0.0, 0.6]) == (
        ("rotate", pytest.approx(-30 * 8 / 9)), ("color", pytest.approx(0.2)),
    )  # fmt: skip
    assert [name for name, _ in draw_operations(IMAGENET, [first, 0.81, 0.4, 0.99, 0.6])] == ["color"]
    assert draw_operations(IMAGENET, [0.0, 0.39, 0.0, 0.61, 0.0]) == (("posterize", 4.0),)
    assert draw_operations(IMAGENET, [0.9999, 0.9, 0.0, 0.9, 0.0]) == ()
    assert draw_operations(IMAGENET, [1.5 / 25, 0.1, 0.0, 0.9, 0.0]) == (("solarize", pytest.approx(255 * 4 / 9)),)


def test_every_pair_of_both_policies_runs_on_any_memory_layout():
    planar, interleaved = tensor(PIXELS).contiguous(), tensor(PIXELS)
    for policy in (IMAGENET, CIFAR10):
        for pair in range(25):
            operations = draw_operations(policy, [(pair + 0.5) / 25, 0.0, 0.1, 0.0, 0.9])
            one, other = apply_operations(planar, operations), apply_operations(interleaved, operations)
            assert torch.equal(one, other) and (len(operations) == 2 or pair in (12, 14))
    assert np.array_equal(planar.permute(1, 2, 0), PIXELS)
