from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_export.verify.measure.diagnostics import diagnose, thumbnail
from alphanet_zoo.evaluate.evaluator import Answers

# Probabilities of three images: right with 0.75, wrong with 0.5, wrong with 0.9.
LOGITS = torch.tensor([[0.75, 0.2, 0.05], [0.5, 0.3, 0.2], [0.06, 0.9, 0.04]]).log()
TRUTH = torch.tensor([0, 1, 0])


def test_diagnostics_by_hand() -> None:
    found = diagnose(Answers.of(LOGITS, TRUTH), ("cat", "dog", "owl"), lambda index: f"{index}.png")
    assert found.negative_log_likelihood == pytest.approx(-np.log([0.75, 0.3, 0.06]).mean())
    assert found.mean_confidence == pytest.approx((0.75 + 0.5 + 0.9) / 3)
    assert found.expected_calibration_error == pytest.approx((0.25 + 0.5 + 0.9) / 3)
    cat, dog, owl = found.per_class
    assert (cat.label, cat.images, cat.correct, cat.predicted, cat.accuracy) == ("cat", 2, 1, 2, 50.0)
    assert cat.interval == pytest.approx((9.453, 90.547), abs=1e-3)  # Wilson's interval of 1 of 2.
    assert (dog.images, dog.accuracy) == (1, 0.0) and (owl.images, owl.accuracy, owl.interval) == (0, None, None)
    assert found.confusion_matrix == ((1, 1, 0), (1, 0, 0), (0, 0, 0))
    assert [(each.label, each.predicted, each.images, each.share) for each in found.confusions] == [
        ("cat", "dog", 1, 50.0), ("dog", "cat", 1, 100.0)
    ]  # fmt: skip
    first, second = found.mistakes
    assert (first.file, first.label, first.predicted, second.file) == ("2.png", "cat", "dog", "1.png")
    assert (first.confidence, first.probability) == pytest.approx((0.9, 0.06))


def test_many_classes_have_no_matrix_and_a_bounded_number_of_confusions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(4000, 100, generator=generator), torch.arange(4000) % 100
    found = diagnose(Answers.of(logits, truth), [str(index) for index in range(100)], str)
    assert found.confusion_matrix is None and len(found.confusions) == 1000 and len(found.mistakes) == 20
    assert found.confusions[0].images >= found.confusions[-1].images


@pytest.mark.parametrize(("shape", "size"), [((3, 300, 600), (96, 48)), ((3, 8, 8), (96, 96))])
def test_a_thumbnail_is_a_small_jpeg_inside_the_page(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    uri = thumbnail(torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    prefix = "data:image/jpeg;base64,"
    assert uri.startswith(prefix) and len(uri) < 20_000
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(prefix)))) as picture:
        assert picture.format == "JPEG" and picture.size == size
