from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alphanet_export.build import Source
from alphanet_export.formats import FORMATS, format_of
from alphanet_export.freeze import freeze
from alphanet_export.runtimes.runtime import RUNTIMES, FloatArray, open_runtime
from alphanet_export.verify.measure.parity import measure_parity, synthetic_images
from alphanet_export.write import write_export
from alphanet_zoo.errors import AlphaNetError, ParityError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY

FILES = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "exported-program"}
"""Those that are quick to make, and what runs them."""
SLOW_FILES = {"aoti": "aot-inductor", "executorch": "executorch"}
IMAGES = synthetic_images(3, 12)
PIXELS: FloatArray = IMAGES.numpy()


@pytest.fixture(scope="module")
def net() -> AlphaNet:
    return fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)).eval()


@pytest.fixture(scope="module")
def expected(net: AlphaNet) -> FloatArray:
    with torch.inference_mode():
        return net(IMAGES).numpy()


@pytest.fixture(scope="module")
def folder(net: AlphaNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick files, of one image at a time and of any number."""
    folder = tmp_path_factory.mktemp("files")
    for stem, dynamic in (("one", False), ("any", True)):
        frozen = freeze(net, dynamic_batch=dynamic)
        paths = {name: FORMATS[name].path(folder / stem) for name in FILES}
        write_export(frozen, Source(net, "tiny"), verify=False, **paths)
    return folder


def file_of(folder: Path, name: str, stem: str = "one") -> Path:
    return FORMATS[name].path(folder / stem)


def relative_error(actual: FloatArray, expected: FloatArray) -> float:
    return float((np.abs(actual - expected).max(axis=1) / np.abs(expected).max(axis=1)).max())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("stem", ["one", "any"])
def test_a_file_runs_in_its_runtime(name: str, stem: str, folder: Path, expected: FloatArray) -> None:
    with open_runtime(file_of(folder, name, stem), threads=1) as runtime:
        assert (runtime.name, runtime.threads, runtime.precision) == (FILES[name], 1, "fp32")
        assert (runtime.input_size, runtime.batch) == (12, 1 if stem == "one" else None)
        assert json.loads(runtime.metadata["alphanet.name"]) == "tiny"
        assert json.loads(runtime.metadata["alphanet.arch"]) == ALPHANET_TINY.smallest.to_dict()
        logits = runtime.infer(PIXELS)
        assert logits.dtype == np.float32 and logits.shape == (3, 10)
        assert relative_error(logits, expected) < 1e-5
        kept = logits.copy()
        runtime.infer(PIXELS + 1)
        assert np.array_equal(logits, kept), "a later run must not change what an earlier one gave"


def test_every_file_carries_the_same_metadata(folder: Path) -> None:
    entries = [dict(open_runtime(file_of(folder, name)).metadata) for name in FILES]
    for entry in entries:
        entry.pop("alphanet.digests", None)  # ONNX files only.
    assert entries[0] == entries[1] == entries[2] and len(entries[0]) > 10


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_its_parity(name: str, net: AlphaNet, folder: Path) -> None:
    with open_runtime(file_of(folder, name), threads=1) as runtime:
        parity = measure_parity(runtime, net, IMAGES, synthetic=True).check()
        assert parity.max_relative_error < 1e-5 and (parity.top1_agreement, parity.images) == (1.0, 3)
        assert [level.level for level in parity.levels] == [FILES[name]]
        other = fill_live(AlphaNet(net.arch, ALPHANET_TINY, 10), seed=1).eval()
        with pytest.raises(ParityError):
            measure_parity(runtime, other, IMAGES).check()
        with pytest.raises(ValueError, match="eval mode"):
            measure_parity(runtime, fill_live(AlphaNet(net.arch, ALPHANET_TINY, 10)), IMAGES)
        with pytest.raises(ValueError, match="no images"):
            measure_parity(runtime, net, IMAGES[:0])


def test_a_net_runs_as_it_is_and_threads_are_put_back(net: AlphaNet, expected: FloatArray) -> None:
    seen: list[int] = []
    handle = net.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    with open_runtime(net, threads=before + 1) as runtime:
        assert (runtime.name, runtime.batch, runtime.input_size) == ("pytorch", None, None)
        assert relative_error(runtime.infer(PIXELS), expected) < 1e-6
    handle.remove()
    assert seen == [before + 1] and torch.get_num_threads() == before
    with pytest.raises(ValueError, match="eval mode"):
        open_runtime(AlphaNet(net.arch, ALPHANET_TINY, 10))


def test_wrong_images_are_refused(folder: Path) -> None:
    runtime = open_runtime(file_of(folder, "onnx"), threads=1)
    for images, told in (
        (PIXELS[0], r"shape \(N, 3, 12, 12\)"),
        (PIXELS[:, :, :11], "not \\(3, 3, 11, 12\\)"),
        (PIXELS.astype(np.float64), "float32 images, not float64"),
        (PIXELS[:0], "not 0"),
    ):
        with pytest.raises(ValueError, match=told):
            runtime.infer(images)
    runtime.close()
    runtime.close()
    with pytest.raises(ValueError, match="open it again"):
        runtime.infer(PIXELS)


def test_a_runtime_refuses_what_it_cannot_honour(net: AlphaNet, folder: Path, tmp_path: Path) -> None:
    onnx, openvino = file_of(folder, "onnx"), file_of(folder, "openvino")
    (tmp_path / "net.mlpackage").mkdir()
    cases = [
        (onnx, {"threads": 0}, "threads is 0"),
        (onnx, {"precision": "fp64"}, "unknown precision 'fp64'"),
        (onnx, {"precision": "bf16"}, "ONNX Runtime does not support bf16; pass fp32"),
        (net, {"precision": "fp16"}, "PyTorch does not support fp16"),
        (onnx, {"name": "onnxruntme"}, "did you mean onnxruntime?"),
        (onnx, {"name": "openvino"}, "openvino does not run"),
        (net, {"name": "onnxruntime"}, "a AlphaNet in memory; use pytorch or pytorch-compiled"),
        (tmp_path / "none.onnx", {}, "is not a file"),
        (tmp_path / "net.bin", {}, "unknown file type"),
        (tmp_path / "net.mlpackage", {}, "macOS only"),
    ]
    for model, options, told in cases:
        with pytest.raises(UsageError, match=told.replace("?", r"\?")):
            open_runtime(model, **options)  # type: ignore[arg-type]
    from openvino import Core

    able = Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in ("bf16", "fp16"):
        if precision.upper() not in able:
            with pytest.raises(UsageError, match=f"this CPU does not compute in {precision}"):
                open_runtime(openvino, precision=precision)
        else:
            assert open_runtime(openvino, precision=precision).infer(PIXELS).shape == (3, 10)


def test_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in FILES:
        content = file_of(folder, name).read_bytes()
        path = tmp_path / file_of(folder, name).name
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(AlphaNetError) as caught:
            open_runtime(path)
        assert caught.value.exit_code == 1 and path.name in str(caught.value)


def test_every_runtime_has_a_file_or_takes_a_net() -> None:
    assert {*RUNTIMES} == {"pytorch", "pytorch-compiled", *FILES.values(), *SLOW_FILES.values()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SLOW_FILES)
def test_a_file_that_is_compiled_runs_in_its_runtime(
    name: str, net: AlphaNet, expected: FloatArray, tmp_path: Path
) -> None:
    path = FORMATS[name].path(tmp_path / "one")
    written = write_export(freeze(net), Source(net, "tiny"), **{name: path})
    assert written.parities[name].max_relative_error < 1e-5 and format_of(path).runtime == SLOW_FILES[name]
    for threads in (1, 2):
        with open_runtime(path, threads=threads) as runtime:
            assert (runtime.name, runtime.input_size, runtime.batch) == (SLOW_FILES[name], 12, 1)
            assert json.loads(runtime.metadata["alphanet.name"]) == "tiny"
            assert not [key for key in runtime.metadata if not key.startswith("alphanet.")]
            logits = runtime.infer(PIXELS)
            assert relative_error(logits, expected) < 1e-5
            kept = logits.copy()
            runtime.infer(PIXELS + 1)
            assert np.array_equal(logits, kept)
            if name == "executorch":
                with pytest.raises(UsageError, match="close that first"):
                    open_runtime(path, threads=threads + 1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AlphaNetError):
        open_runtime(path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_net_runs_compiled(net: AlphaNet, expected: FloatArray) -> None:
    with open_runtime(net, "pytorch-compiled", threads=1) as runtime:
        assert relative_error(runtime.infer(PIXELS), expected) < 1e-5


SIGNAL_AFTER_OPENVINO = """
import faulthandler, gc, signal, subprocess, sys
from alphanet_export.runtimes.runtime import open_runtime

faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: print("signal"))
first, second = (open_runtime(sys.argv[1]) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
subprocess.run([sys.executable, "-c", ""], check=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGCHLD")
def test_signals_arrive_after_openvino_models_are_closed_in_any_order(folder: Path) -> None:
    command = [sys.executable, "-c", SIGNAL_AFTER_OPENVINO, str(file_of(folder, "openvino"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout.endswith("signal\n"), (done.returncode, done.stderr)
