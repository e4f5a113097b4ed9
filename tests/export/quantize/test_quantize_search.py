from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphanet_export.onnx_model import FloatArray
from alphanet_export.quantize.images import QuantImages
from alphanet_export.quantize.judge import judge
from alphanet_export.quantize.layers import Layer
from alphanet_export.quantize.ranges import BINS, Histogram, find_range, histograms
from alphanet_export.quantize.search import find_int8
from alphanet_export.quantize.toolchain import Toolchain
from alphanet_export.verify.measure.parity import LOUDEST_DB, sqnr_db
from alphanet_zoo.errors import AccuracyError


class MadeUp(Toolchain):
    """Four layers of which some make a given share of the classes wrong; a model is the set of its int8 layers."""

    methods = ("poor", "good")
    title, reduced = "made up", False

    def __init__(self, wrong: Mapping[str, float]) -> None:
        self.layers = tuple(Layer(name, name, (), 10) for name in ("a", "b", "c", "d"))
        self.wrong = wrong

    def build(self, method: str, names: Collection[str]) -> Any:
        return method, frozenset(names)

    def runner(self, model: Any, threads: int = 0) -> Callable[[FloatArray], FloatArray]:
        method, names = model or ("good", frozenset())
        share = sum(self.wrong.get(name, 0.0) for name in names) + (0.1 if method == "poor" else 0.0)

        def run(images: FloatArray) -> FloatArray:
            logits = np.tile(np.array([2.0, 1.0], np.float32), (len(images), 1))
            logits[: round(share * len(images))] = logits[0, ::-1]
            return logits + np.float32(1e-3 * len(names))

        return run

    def write(self, model: Any, path: Path, metadata: Mapping[str, str]) -> None:
        raise AssertionError


def made_up_images(classes: bool = True) -> QuantImages:
    pixels = np.zeros((200, 3, 2, 2), np.float32)
    return QuantImages(pixels, pixels, np.zeros(200, np.int64) if classes else None)


def test_the_worst_layers_go_back_to_float_until_the_drop_is_allowed() -> None:
    tools = MadeUp({"b": 0.10, "d": 0.04})
    model, log = find_int8(tools, made_up_images(), max_drop=5.0, time_it=False)
    assert model == ("good", {"a", "c", "d"}) and log.method == "good"
    assert [step.back_to_float for step in log.steps] == [None, "b"]
    assert [round(step.judgement.drop, 6) for step in log.steps] == [14.0, 4.0]
    assert log.float_layers == ("b",) and log.int8_share == 0.75
    model, log = find_int8(tools, made_up_images(), max_drop=0.5, time_it=False)
    assert model == ("good", {"a", "c"}) and log.float_layers == ("b", "d")


def test_without_labels_disagreement_is_the_drop() -> None:
    _, log = find_int8(MadeUp({"b": 0.10}), made_up_images(classes=False), max_drop=2.0, time_it=False)
    assert log.float_layers == ("b",) and log.steps[0].judgement.drop == pytest.approx(10.0)
    assert log.verdict.top1 is None and log.verdict.p_value is None and log.verdict.agreement == 100.0


def test_a_drop_that_cannot_be_met_is_an_error() -> None:
    with pytest.raises(AccuracyError, match=r"more than 1 points even with 2 of 4 layers in float32"):
        find_int8(MadeUp(dict.fromkeys("abcd", 0.1)), made_up_images(), max_drop=1.0, time_it=False)


@pytest.mark.parametrize(
    ("lost", "won", "drop", "p"), [(0, 0, 0.0, 1.0), (6, 0, 3.0, 0.03125), (3, 5, -1.0, 0.7265625)]
)
def test_judgement_is_mcnemars(lost: int, won: int, drop: float, p: float) -> None:
    classes = np.zeros(200, np.int64)
    right, wrong = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    reference, ours = np.repeat(right, 200, 0), np.repeat(right, 200, 0)
    ours[:lost], reference[lost : lost + won] = wrong, wrong
    verdict = judge(reference, ours, classes, 2.0)
    assert verdict.drop == pytest.approx(drop) and verdict.p_value == pytest.approx(p)
    assert verdict.drop_interval[0] < drop < verdict.drop_interval[1]
    assert verdict.within == (drop <= 2.0) and not (verdict.sure and not verdict.within)


def test_noise_of_equal_logits_is_none() -> None:
    logits = np.ones((2, 3), np.float32)
    assert sqnr_db(logits, logits) == LOUDEST_DB
    assert sqnr_db(logits, logits * np.float32(1.1)) == pytest.approx(20.0, abs=1e-4)


def test_ranges_of_a_long_tail() -> None:
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    values[0] = 60.0
    found = histograms(lambda: [{"x": values[:100_000]}, {"x": values[100_000:]}])["x"]
    assert found.counts.sum() == len(values) and len(found.counts) == BINS
    assert find_range(found, "min-max") == (float(values.min()), 60.0)
    for method in ("percentile", "entropy"):
        low, high = find_range(found, method)
        assert values.min() <= low < -2 and 2 < high < 15
    with pytest.raises(ValueError, match="unknown method 'best'"):
        find_range(found, "best")


def test_a_range_holds_zero() -> None:
    found = histograms(lambda: [{"x": np.full((4,), 3.0, np.float32), "zero": np.zeros(4, np.float32)}])
    assert all(
        find_range(found["x"], m)[0] == 0 and find_range(found["x"], m)[1] > 2.9 for m in ("min-max", "percentile")
    )
    assert find_range(found["zero"], "entropy") == (0.0, 0.0)
    assert find_range(Histogram(0.0, 1.0, np.ones(BINS, np.int64)), "entropy") == pytest.approx((0.0, 1.0), abs=1e-6)
