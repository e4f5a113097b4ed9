from __future__ import annotations

import sys
from pathlib import Path

import pytest

from alphanet_export.verify.measure.memory import measure_memory
from alphanet_zoo.errors import AlphaNetError
from tests.export.exported import tiny_onnx


@pytest.mark.skipif(sys.platform == "win32", reason="the system tells no peak")
def test_memory_is_that_of_the_model_alone(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    ballast = b"\1" * 400_000_000  # This process's own memory must not count.
    small = measure_memory(tmp_path / "tiny.onnx", threads=1)
    large = measure_memory(tmp_path / "tiny.onnx", threads=1, batch=1500)
    assert small is not None and large is not None and ballast
    assert 0 < small.peak_mb < 100 and small.baseline_mb < 200
    pixels = 1500 * 3 * 12 * 12 * 4 / 1e6
    assert large.peak_mb > small.peak_mb + 2 * pixels
    assert (large.batch, large.threads) == (1500, 1)


def test_a_failure_tells_why(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(AlphaNetError, match=r"memory of .*bad\.onnx failed: .*(INVALID|Protobuf|protobuf|load)"):
        measure_memory(tmp_path / "bad.onnx", threads=1)
