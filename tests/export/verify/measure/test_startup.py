from __future__ import annotations

from pathlib import Path

import pytest

from alphanet_export.verify.measure.startup import measure_startup
from alphanet_zoo.errors import AlphaNetError
from tests.export.exported import tiny_onnx


def test_a_fresh_process_is_timed_step_by_step(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    startup = measure_startup(tmp_path / "tiny.onnx", threads=1, repeats=1)
    assert (startup.repeats, startup.threads) == (1, 1)
    steps = startup.import_ms, startup.load_ms, startup.first_ms
    assert min(steps) > 0 and startup.total_ms > sum(steps)


def test_a_process_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(AlphaNetError, match="bad.onnx failed: .*"):
        measure_startup(tmp_path / "bad.onnx", threads=1, repeats=1)
