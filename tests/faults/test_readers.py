"""How files of others are opened: by safe readers only, and by nothing that the lists below do not name."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.tensor_file import read_tensor_file

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("alphanet_zoo", "export", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]

FORBIDDEN = {"yaml.load", "yaml.full_load", "yaml.unsafe_load", "pickle.load", "pickle.loads", "marshal.loads",
             "torch.jit.load", "joblib.load", "np.load", "numpy.load", "onnx.load", "onnx.load_model"}  # fmt: skip
"""Calls that can run code from a file, or open other files that it names."""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """The calls in a module by dotted name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_torch_load_is_safe_and_no_unsafe_reader_is_called() -> None:
    found = 0
    for path in SOURCES:
        for name, call in calls(path):
            place = f"{path.relative_to(ROOT)}:{call.lineno}: {name}"
            assert name not in FORBIDDEN, place
            if name == "torch.load":
                found += 1
                safe = [ast.unparse(each.value) for each in call.keywords if each.arg == "weights_only"]
                assert safe == ["True"], f"{place} without weights_only=True"
            if name in ("safe_open", "load_file", "safetensors.torch.load_file"):
                raise AssertionError(f"{place}; use alphanet_zoo.tensor_file, which checks more")
            if name.endswith("Image.open") and path.is_relative_to(ROOT / "alphanet_zoo"):
                formats = any(each.arg == "formats" for each in call.keywords)
                assert formats, f"{place} without a closed list of formats"
            if name.endswith((".extractall", ".unpack_archive")):
                assert any(each.arg == "filter" for each in call.keywords), f"{place} without a filter"
    assert found, "the search found no torch.load at all"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_in_place_of_weights_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.safetensors")
    with pytest.raises(AlphaNetError, match="not a regular file"):
        read_tensor_file(tmp_path / "net.safetensors")
