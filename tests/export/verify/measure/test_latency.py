from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alphanet_export.verify.measure.latency import (
    measure_latency,
    measure_throughput,
    summarise,
    thread_counts,
)
from alphanet_zoo.errors import TargetError, UsageError
from tests.export.exported import tiny_onnx


def test_the_figures_of_known_times() -> None:
    latency = summarise(np.arange(1.0, 102.0), batch=4, threads=1, cpu_share=0.95, load_ms=7.0)
    assert (latency.median_ms, latency.p90_ms, latency.p99_ms) == (51.0, 91.0, 100.0)
    assert (latency.mean_ms, latency.min_ms, latency.repeats) == (51.0, 1.0, 101)
    assert latency.images_per_second == pytest.approx(4000 / 51)
    assert sum(latency.histogram.counts) + latency.histogram.slower == 101
    assert latency.histogram.slower == 1
    assert latency.histogram.edges_ms[0] == 1.0 and latency.histogram.edges_ms[-1] == 100.0


def test_equal_times_have_a_histogram() -> None:
    latency = summarise(np.full(5, 2.0), batch=1, threads=1, cpu_share=0.95, load_ms=1.0)
    assert sum(latency.histogram.counts) + latency.histogram.slower == 5


@pytest.mark.parametrize(("name", "batch"), [("static", 1), ("dynamic", 3)])
def test_a_model_is_timed(folder: Path, name: str, batch: int) -> None:
    latency = measure_latency(folder / f"{name}.onnx", threads=1, batch=batch, repeats=20, seconds=0.05)
    assert latency.repeats >= 20 and (latency.batch, latency.threads) == (batch, 1)
    low, high = latency.median_interval_ms
    assert 0 < latency.min_ms <= low <= latency.median_ms <= high
    assert latency.median_ms <= latency.p90_ms <= latency.p99_ms
    assert latency.load_ms > 0 and 0 < latency.cpu_share <= 1


def test_the_time_budget_is_spent(folder: Path) -> None:
    latency = measure_latency(folder / "static.onnx", threads=1, repeats=2, seconds=0.3)
    assert 2 < latency.repeats and latency.mean_ms * latency.repeats > 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 2}, "only batches of 1, not 2; export it with --dynamic-batch"),
        ({"threads": 0}, "threads 0"),
        ({"batch": 0}, "batch 0"),
        ({"repeats": 1}, "repeats 1"),
        ({"seconds": float("nan")}, "seconds nan"),
        ({"seconds": -1.0}, "seconds -1"),
    ],
)
def test_wrong_arguments_are_refused(folder: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure_latency(folder / "static.onnx", **options)  # type: ignore[arg-type]


def test_the_target() -> None:
    latency = summarise(np.arange(1.0, 102.0), batch=1, threads=1, cpu_share=0.95, load_ms=7.0)
    assert latency.check(51.0) is latency
    with pytest.raises(TargetError, match="median latency 51.00 ms .* above the target of 50 ms"):
        latency.check(50.0)


@pytest.mark.parametrize(("most", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_threads_double_up_to_the_cores(most: int, expected: tuple[int, ...]) -> None:
    assert thread_counts(most) == expected


def test_a_file_of_any_batch_gets_a_grid(tmp_path: Path) -> None:
    (tmp_path / "any.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    points = measure_throughput(tmp_path / "any.onnx", threads=(1, 2), seconds=0.01)
    assert [(point.threads, point.batch) for point in points] == [(1, 1), (1, 4), (1, 16), (2, 1), (2, 4), (2, 16)]
    assert all(point.images_per_second > 0 and point.runs >= 3 for point in points)


def test_a_file_of_one_batch_gets_its_own(tmp_path: Path) -> None:
    (tmp_path / "one.onnx").write_bytes(tiny_onnx())
    (point,) = measure_throughput(tmp_path / "one.onnx", batch=1, threads=(1,), seconds=0.0)
    assert (point.batch, point.threads, point.runs) == (1, 1, 3)
    with pytest.raises(UsageError, match="takes only batches of 1, not 2"):
        measure_throughput(tmp_path / "one.onnx", batch=2, threads=(1,), seconds=0.0)
