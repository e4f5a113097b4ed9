from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from alphanet_zoo.evaluate.diagnostics import (
    class_counts,
    confident_mistakes,
    confusion_matrix,
    largest_confusions,
    reliability,
)
from alphanet_zoo.evaluate.evaluator import Answers

CLASSES = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTED = torch.tensor([0, 1, 1, 1, 0, 2])


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.85, 0.55, 0.45], dtype=torch.float64)
    right = torch.tensor([True, False, True, False])
    found = reliability(confidence, right, bins=2)
    assert found.edges == (0.0, 0.5, 1.0) and found.images == (1, 3)
    assert found.confidence == pytest.approx((0.45, (0.95 + 0.85 + 0.55) / 3)) and found.accuracy == (0.0, 2 / 3)
    assert found.expected_calibration_error == pytest.approx(0.25 * 0.45 + 0.75 * abs(2 / 3 - 2.35 / 3))


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    found = reliability(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), torch.tensor([True, True, False]), bins=2)
    assert found.images == (2, 1) and found.accuracy == (1.0, 0.0)


def test_a_calibrated_classifier_has_no_error_and_empty_bins_are_none() -> None:
    found = reliability(torch.full((4,), 0.75), torch.tensor([True, True, True, False]))
    assert found.expected_calibration_error == pytest.approx(0.0)
    assert len(found.images) == 15 and found.accuracy.count(None) == found.confidence.count(None) == 14
    with pytest.raises(ValueError, match="0 confidences, 0 images, 15 bins"):
        reliability(torch.zeros(0), torch.zeros(0, dtype=torch.bool))


def test_counts_and_confusions_by_hand() -> None:
    assert class_counts(CLASSES, PREDICTED, 4).tolist() == [[3, 1, 2], [2, 1, 3], [1, 1, 1], [0, 0, 0]]
    assert confusion_matrix(CLASSES, PREDICTED, 3).tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert largest_confusions(CLASSES, PREDICTED, 3, 9) == [(0, 1, 2), (1, 0, 1)]
    assert largest_confusions(CLASSES, PREDICTED, 3, 1) == [(0, 1, 2)]
    assert largest_confusions(CLASSES, CLASSES, 3, 9) == []


def test_the_confusion_matrix_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, guess = (torch.from_numpy(rng.integers(0, 7, 500)) for _ in range(2))
    expected = metrics.confusion_matrix(truth.numpy(), guess.numpy(), labels=range(7))
    assert (confusion_matrix(truth, guess, 7) == expected).all()
    recall = metrics.recall_score(truth.numpy(), guess.numpy(), average=None, labels=range(7))
    counts = class_counts(truth, guess, 7)
    assert counts[:, 1] / counts[:, 0] == pytest.approx(recall)
    np.fill_diagonal(expected, 0)
    pairs = largest_confusions(truth, guess, 7, 100)
    assert {(a, b): n for a, b, n in pairs} == {(a, b): n for (a, b), n in np.ndenumerate(expected) if n}
    assert [n for *_, n in pairs] == sorted((n for *_, n in pairs), reverse=True)


def test_the_most_confident_mistakes_come_first() -> None:
    confidence, right = torch.tensor([0.9, 0.4, 0.8, 0.8]), torch.tensor([True, False, False, False])
    assert confident_mistakes(confidence, right, 2) == [2, 3] and confident_mistakes(confidence, right, 9) == [2, 3, 1]
    assert confident_mistakes(confidence, ~torch.zeros(4, dtype=torch.bool), 9) == []


def test_probabilities_of_answers_by_hand() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, -1.0]]).log()  # Probabilities 0, 1/4, 3/4; NaN for negatives.
    answers = Answers.of(logits[:1], torch.tensor([1]))
    assert answers.confidence.tolist() == pytest.approx([0.75])
    assert answers.log_likelihood.tolist() == pytest.approx([np.log(0.25)])
    assert Answers.of(logits[1:], torch.tensor([1])).confidence.isnan().all()
    whole = Answers.joined([answers, Answers.of(torch.zeros(2, 3), torch.tensor([0, 2]))], 3)
    assert whole.classes.tolist() == [1, 0, 2] and whole.confidence.tolist() == pytest.approx([0.75, 1 / 3, 1 / 3])
    assert whole.best.shape == (3, 3) and Answers.joined([], 7).best.shape == (0, 5)


def test_fifty_thousand_images_of_a_thousand_classes_are_quick() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, guess = (torch.randint(0, 1000, (50_000,), generator=generator) for _ in range(2))
    confidence = torch.rand(50_000, generator=generator)
    began = time.perf_counter()
    assert sum(reliability(confidence, truth == guess).images) == class_counts(truth, guess, 1000)[:, 0].sum() == 50_000
    assert len(largest_confusions(truth, guess, 1000, 1000)) == 1000
    assert len(confident_mistakes(confidence, truth == guess, 20)) == 20
    assert time.perf_counter() - began < 5
