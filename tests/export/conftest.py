"""Exported files that several tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.exported import tiny_onnx


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    (folder / "static.onnx").write_bytes(tiny_onnx())
    (folder / "dynamic.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    return folder
