from __future__ import annotations

import numpy as np
import pytest
import torch

from alphanet_zoo.data.corruptions import CORRUPTIONS, SEVERITIES, Corruption

BY_NAME = {corruption.name: corruption for corruption in CORRUPTIONS}
EACH = pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)


def photo(side: int = 120) -> torch.Tensor:
    """Smooth shapes with an edge and texture, of mid brightness."""
    x = np.linspace(0, 1, side)
    grey = 90 + 60 * np.sin(6 * x)[:, None] * np.cos(9 * x)[None] + 30 * (x > 0.5)[None]
    grey = grey + np.random.default_rng(0).normal(scale=10, size=grey.shape)
    return torch.from_numpy(np.stack([grey, 0.8 * grey, 1.2 * grey]).clip(0, 255).astype(np.uint8))


@EACH
def test_a_corruption_is_a_function_of_seed_index_and_severity(corruption: Corruption) -> None:
    image, before = photo(), photo()
    first = corruption(image, 3, seed=1, index=2)
    assert first.dtype == torch.uint8 and first.shape == image.shape and torch.equal(image, before)
    assert torch.equal(first, corruption(image, 3, seed=1, index=2))
    others = [corruption(image, 3, seed=2, index=2), corruption(image, 3, seed=1, index=3)]
    assert all(torch.equal(first, other) != ("noise" in corruption.name) for other in others)


@EACH
def test_a_higher_severity_changes_more(corruption: Corruption) -> None:
    image = photo()
    errors = [float((corruption(image, s, seed=0, index=0).float() - image).square().mean()) for s in SEVERITIES]
    assert errors == sorted(errors) and errors[0] > 0 and errors[-1] > 1.5 * errors[0]
    with pytest.raises(ValueError, match="the severity is 6; pass 1, 2, 3, 4 or 5"):
        corruption(image, 6, seed=0, index=0)


def test_parameters_mean_what_they_say() -> None:
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)

    def run(name: str, severity: int) -> torch.Tensor:
        return BY_NAME[name](grey, severity, seed=0, index=0).float() / 255

    assert run("gaussian noise", 2).std().item() == pytest.approx(0.08, rel=0.02)
    assert run("shot noise", 3).std().item() == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.02)
    impulses = run("impulse noise", 5)
    assert ((impulses == 0) | (impulses == 1)).float().mean().item() == pytest.approx(0.2, rel=0.05)
    assert run("brightness", 3).unique().tolist() == pytest.approx([128 / 255 + 0.3], abs=0.003)
    half = photo(100)
    flat = BY_NAME["contrast"](half, 5, seed=0, index=0).float()
    ratio = flat.std((1, 2)) / half.float().std((1, 2))
    assert ratio.tolist() == pytest.approx([0.1] * 3, rel=0.05)
    assert flat.mean((1, 2)).tolist() == pytest.approx(half.float().mean((1, 2)).tolist(), abs=1)
    blocks = BY_NAME["pixelate"](half, 2, seed=0, index=0)
    assert torch.equal(blocks[:, ::2, ::2], blocks[:, 1::2, 1::2])


def test_blur_is_relative_to_the_side() -> None:
    step = torch.zeros(3, 400, 400, dtype=torch.uint8)
    step[:, :, 200:] = 255
    for side in (400, 200):
        small = step[:, :: 400 // side, :: 400 // side]
        edge = BY_NAME["gaussian blur"](small, 5, seed=0, index=0)[0, side // 2].float() / 255
        share = ((edge > 0.16) & (edge < 0.84)).float().mean().item()  # Two deviations of the blurred step.
        assert share == pytest.approx(2 * 0.028, abs=0.012)
