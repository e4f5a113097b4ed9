from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.corruptions import CORRUPTIONS, SEVERITIES
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.evaluate.robustness import corrupted_hits

PREPROCESSING = Preprocessing(16, 16, "bilinear", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    """Images that are darker (class 0) or brighter (class 1) than mid grey."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 70), ("light", 180)):
        (root / name).mkdir()
        for number in range(5):
            pixels = rng.normal(level, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return FolderSource(root)


def brightness_logits(pixels: torch.Tensor) -> torch.Tensor:
    mean = pixels.mean((1, 2, 3))
    return torch.stack([-mean, mean], dim=1)


def test_every_corruption_and_severity_is_counted(source: FolderSource) -> None:
    clean, found = corrupted_hits(source, brightness_logits, PREPROCESSING, torch.tensor([0, 1]), batch_size=3)
    assert (clean.correct, clean.images) == (10, 10)
    assert [(each.corruption, each.severity) for each in found] == [
        (corruption.name, severity) for corruption in CORRUPTIONS for severity in SEVERITIES
    ]
    correct = {(each.corruption, each.severity): each.hits.correct for each in found}
    assert correct["brightness", 1] == 10 and correct["brightness", 5] == 5  # Every dark image becomes bright.
    assert correct["gaussian blur", 5] == correct["contrast", 5] == correct["pixelate", 5] == 10  # The mean stays.


def test_the_counts_do_not_depend_on_the_batch_size(source: FolderSource) -> None:
    def first_pixel(pixels: torch.Tensor) -> torch.Tensor:
        return torch.stack([-pixels[:, 0, 0, 0], pixels[:, 0, 0, 0]], dim=1)

    runs = [
        corrupted_hits(source, first_pixel, PREPROCESSING, torch.tensor([0, 1]), batch_size=size) for size in (1, 4)
    ]
    assert runs[0] == runs[1] != corrupted_hits(source, first_pixel, PREPROCESSING, torch.tensor([0, 1]), seed=1)


def test_the_outputs_of_the_model_may_be_in_another_order(source: FolderSource) -> None:
    clean, _ = corrupted_hits(source, brightness_logits, PREPROCESSING, torch.tensor([1, 0]))
    assert clean.correct == 0
