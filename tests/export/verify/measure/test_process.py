from __future__ import annotations

import sys
from pathlib import Path

import pytest

from alphanet_export.verify.measure.process import measure_process
from alphanet_zoo.errors import AlphaNetError
from tests.export.exported import tiny_onnx


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not report the peak")
def test_memory_is_that_of_the_model_alone(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    ballast = b"\1" * 400_000_000  # The memory of this process must not count.
    _, small = measure_process(tmp_path / "tiny.onnx", threads=1, repeats=1)
    _, large = measure_process(tmp_path / "tiny.onnx", threads=1, batch=1500, repeats=1)
    assert small is not None and large is not None and ballast
    assert 0 < small.peak_mb < 100 and small.baseline_mb < 200
    pixels = 1500 * 3 * 12 * 12 * 4 / 1e6
    assert large.peak_mb > small.peak_mb + 2 * pixels
    assert (large.batch, large.threads) == (1500, 1)


def test_a_fresh_process_is_timed_step_by_step(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    startup, _ = measure_process(tmp_path / "tiny.onnx", threads=1, repeats=1)
    assert (startup.repeats, startup.threads) == (1, 1)
    steps = startup.import_ms, startup.load_ms, startup.first_ms
    assert min(steps) > 0 and startup.total_ms > sum(steps)


def test_the_message_of_a_process_that_fails_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.ort").write_bytes(b"nothing")
    with pytest.raises(AlphaNetError, match=r"bad\.ort in a fresh process failed: .*FAIL"):
        measure_process(tmp_path / "bad.ort", threads=1)
