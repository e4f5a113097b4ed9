"""Exported files that several tests use."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alphanet_export.build import Source
from alphanet_export.formats import FORMATS
from alphanet_export.freeze import freeze
from alphanet_export.runtimes.open_vino import signal_stack
from alphanet_export.write import write_export
from alphanet_zoo.nn.model import AlphaNet
from tests.export.exported import tiny_onnx
from tests.predict.pictures import labelled_net, write_pictures


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


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of many kinds."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def net() -> AlphaNet:
    """The network of `bundle`."""
    return labelled_net()


@pytest.fixture(scope="session")
def bundle(net: AlphaNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of several formats to a folder."""
    folder = tmp_path_factory.mktemp("bundle") / "new"
    targets = {name: FORMATS[name].path(folder / "tiny") for name in ("onnx", "openvino", "pt2")}
    write_export(freeze(net), Source(net, "tiny"), verify=False, bundle=True, **targets)
    return folder


@pytest.fixture(autouse=True)
def no_signal_stack_is_left() -> Iterator[None]:
    """After a test, the thread has the alternate signal stack that it had before; see `kept_signal_stack`."""
    if sys.platform != "linux":
        yield
        return
    before = signal_stack().base
    yield
    if signal_stack().base != before:
        gc.collect()  # A model that the test compiled itself restores it when it is destroyed.
    assert signal_stack().base == before
