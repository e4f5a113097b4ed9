from __future__ import annotations

import numpy as np
import pytest

from alphanet_export.quantize.judge import judge
from alphanet_export.verify.measure.parity import LOUDEST_DB, sqnr_db

RIGHT, WRONG = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("lost", "won", "drop", "p"), [(0, 0, 0.0, 1.0), (6, 0, 3.0, 0.03125), (3, 5, -1.0, 0.7265625)]
)
def test_judgement_is_mcnemars(lost: int, won: int, drop: float, p: float) -> None:
    reference, ours = np.repeat(RIGHT, 200, 0), np.repeat(RIGHT, 200, 0)
    ours[:lost], reference[lost : lost + won] = WRONG, WRONG
    verdict = judge(reference, ours, np.zeros(200, np.int64), 2.0)
    assert verdict.drop == pytest.approx(drop) and verdict.p_value == pytest.approx(p)
    assert verdict.drop_interval[0] < drop < verdict.drop_interval[1]
    assert verdict.within == (drop <= 2.0) and not (verdict.sure and not verdict.within)


def test_without_labels_disagreement_is_the_drop() -> None:
    reference, ours = np.repeat(RIGHT, 200, 0), np.repeat(RIGHT, 200, 0)
    ours[:6], reference[6:10] = WRONG, WRONG
    verdict = judge(reference, ours, None, 2.0)
    assert verdict.drop == pytest.approx(5.0) and verdict.agreement == pytest.approx(95.0) and not verdict.within
    assert verdict.top1 is None and verdict.p_value is None
    assert "same class as float32 for 95.00 %, another for 5.00 %" in str(verdict)


def test_noise_of_equal_logits_is_none() -> None:
    logits = np.ones((2, 3), np.float32)
    assert sqnr_db(logits, logits) == LOUDEST_DB
    assert sqnr_db(logits, logits * np.float32(1.1)) == pytest.approx(20.0, abs=1e-4)
