import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from alphanet_zoo.data import augment
from alphanet_zoo.data.augment import (
    CentreCrop,
    CifarTransform,
    ImageNetTransform,
    draw_affine,
    draw_box,
    draw_crop,
    make_transform,
    normalise,
    warp,
)
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.draws import generator
from alphanet_zoo.data.preprocess import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((90, 70))
)
IMAGE = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)


def test_the_imagenet_crop_is_torchvisions(monkeypatch):
    monkeypatch.setattr(augment, "draw_crop", lambda *_: (5, 9, 40, 50))
    seen = [ImageNetTransform(32, False)(IMAGE, generator(0, "x", i)) for i in range(8)]
    plain = TF.resized_crop(IMAGE, 5, 9, 40, 50, [32, 32], InterpolationMode.BICUBIC, antialias=True)
    flips = [torch.equal(image, plain.flip(2)) for image in seen]
    assert all(flip or torch.equal(image, plain) for flip, image in zip(flips, seen, strict=True))
    assert 0 < sum(flips) < 8
    assert all(image.stride() == (1, 96, 3) for image in seen)


def test_crops_lie_in_the_image_and_have_the_published_distribution():
    rng = np.random.default_rng(0)
    boxes = np.array([draw_crop(300, 400, rng) for _ in range(4000)], dtype=float)
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all() and (top + height <= 300).all() and (left + width <= 400).all()
    area, ratio = height * width / 120_000, width / height
    assert 0.078 < area.min() < 0.09 and area.max() > 0.95
    assert 0.73 < ratio.min() < 0.77 and 1.31 < ratio.max() < 1.36
    # Before boxes that do not fit are drawn again, the area's mean is 0.54 and the ratio's logarithm has mean 0.
    small = area < 0.4
    assert np.histogram(area[small], 4, (0.08, 0.4))[0].std() < 0.1 * small.sum() / 4
    assert abs(np.log(ratio[small]).mean()) < 0.02
    assert abs((top[small] / (300 - height[small])).mean() - 0.5) < 0.03
    assert (left == 400 - width).any() and (top == 0).any()


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))])
def test_where_no_box_fits_the_middle_is_taken(height, width, expected):
    assert draw_crop(height, width, np.random.default_rng(3)) == expected
    assert draw_crop(1, 1, np.random.default_rng(3)) == (0, 0, 1, 1)


def test_cifar_images_move_by_up_to_four_pixels_and_flip():
    image = torch.randint(1, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    bordered = torch.nn.functional.pad(image.float(), [4] * 4, mode="reflect").to(torch.uint8)
    windows = {}
    for top in range(9):
        for left in range(9):
            crop = bordered[:, top : top + 32, left : left + 32]
            windows[crop.numpy().tobytes()] = (top, left, False)
            windows[crop.flip(2).contiguous().numpy().tobytes()] = (top, left, True)
    seen = [CifarTransform(32, False)(image, generator(0, "x", i)).contiguous() for i in range(300)]
    found = {windows[crop.numpy().tobytes()] for crop in seen}
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == set(range(9))
    assert {flip for _, _, flip in found} == {True, False}
    assert CifarTransform(32, True).fixed(IMAGE).shape == (3, 32, 32) and CifarTransform(32, True).fixed(image) is image


@pytest.mark.parametrize("transform", [ImageNetTransform(24, True), CifarTransform(24, True)])
def test_a_variation_is_a_function_of_its_generator_and_leaves_the_global_one_alone(transform):
    start = IMAGE if transform.fixed is None else transform.fixed(IMAGE)
    before, copy = torch.get_rng_state(), start.clone()
    first = [transform(start, generator(1, "augment", 0, i)) for i in range(40)]
    torch.manual_seed(99)
    again = [transform(start, generator(1, "augment", 0, i)) for i in reversed(range(40))]
    torch.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert len({image.contiguous().numpy().tobytes() for image in first}) > 35
    assert all(image.shape == (3, 24, 24) and image.dtype == torch.uint8 for image in first)
    assert torch.equal(start, copy)


def test_erased_boxes_have_the_published_sizes_lie_in_the_image_and_are_as_frequent_as_asked():
    config = DataConfig(root="x", image_size=32, batch_size=1, transform="cifar", erasing=0.25)
    drawn = np.array([draw_box(config, generator(0, "augment", 0, i)) for i in range(8000)])
    boxes = drawn[drawn.any(1)]
    assert abs(len(boxes) / len(drawn) - 0.25) < 0.02
    top, left, bottom, right = boxes.T
    assert boxes.min() == 0 and boxes.max() == 32 and (top < bottom).all() and (left < right).all()
    area, ratio = (bottom - top) * (right - left) / 32**2, (bottom - top) / (right - left)
    assert 0.01 < area.min() < 0.03 and 0.3 < area.max() < 0.36 and abs(area.mean() - 0.173) < 0.01
    assert 0.2 < ratio.min() < 0.35 and 3.0 < ratio.max() < 4.5
    whole = draw_box(config.model_copy(update={"image_size": 1, "erasing": 1.0}), np.random.default_rng(0))
    assert whole == (0, 0, 1, 1)


def test_the_centre_crop_is_the_evaluations():
    geometry = Preprocessing(32, 40, "bicubic", MEAN, STD)
    batch = CentreCrop(geometry).fixed(IMAGE)[None]
    torch.testing.assert_close(normalise(batch, MEAN, STD)[0], geometry(IMAGE), rtol=0, atol=2e-6)


def test_the_config_names_the_transform():
    geometry = Preprocessing(224, 256, "bicubic", MEAN, STD)

    def made(**settings):
        return make_transform(DataConfig(root="x", image_size=28, batch_size=1, **settings), geometry)

    assert made() == CentreCrop(Preprocessing(28, 32, "bicubic", MEAN, STD))
    assert made(transform="imagenet", autoaugment=True) == ImageNetTransform(28, True)
    assert made(transform="cifar") == CifarTransform(28, False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalising_keeps_the_layout_and_is_exact(layout):
    images = torch.randint(0, 256, (3, 3, 5, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    result = normalise(images.contiguous(memory_format=layout), MEAN, STD)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(result.double(), (images / 255.0 - mean) / std, rtol=0, atol=1e-6)
    assert result.is_contiguous(memory_format=layout) and result.dtype == torch.float32


def test_warp_moves_turns_and_scales():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    same = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(warp(image, same), image)
    right = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]])
    assert warp(image, right)[0, 0, 0].tolist() == pytest.approx([1, 2, 3, 3])
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])
    torch.testing.assert_close(warp(image, turned)[0, 0], torch.rot90(image[0, 0], 1), rtol=0, atol=1e-5)


def test_affine_draws_stay_within_the_config():
    config = DataConfig(root="x", image_size=8, batch_size=1, rotate_degrees=10, shift=0.1, zoom=0.2)
    thetas = np.stack([draw_affine(config, generator(0, "augment", 0, i)) for i in range(500)])
    scale = np.hypot(thetas[:, 0, 0], thetas[:, 1, 0])
    angle = np.degrees(np.arctan2(thetas[:, 1, 0], thetas[:, 0, 0]))
    assert 1 / 1.2 <= scale.min() < 0.85 and 1.2 < scale.max() <= 1 / 0.8
    assert -10 <= angle.min() < -9 and 9 < angle.max() <= 10
    assert 0.19 < np.abs(thetas[:, :, 2]).max() <= 0.2
    assert math.isclose(thetas[0, 0, 0], thetas[0, 1, 1])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"transform": "cifar", "shift": 0.1, "zoom": 0.1}, "shift, zoom have no effect with transform=cifar"),
        ({"autoaugment": True}, "autoaugment has no effect with transform=affine"),
        ({"engine": "dali"}, "engine=dali requires source=folder, transform=imagenet"),
        ({"engine": "dali", "transform": "imagenet", "source": "cifar10"}, "engine=dali requires source=folder"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        DataConfig(root="x", image_size=8, batch_size=1, **settings)
