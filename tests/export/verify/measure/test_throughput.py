from __future__ import annotations

from pathlib import Path

import pytest

from alphanet_export.verify.measure.throughput import measure_throughput, thread_counts
from alphanet_zoo.errors import AlphaNetError
from tests.export.exported import tiny_onnx


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
    with pytest.raises(AlphaNetError, match="cannot run .*one.onnx on 2 images"):
        measure_throughput(tmp_path / "one.onnx", batch=2, threads=(1,), seconds=0.0)
