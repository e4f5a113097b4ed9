"""NVIDIA's Triton itself, on the repository that ``alphanet export --model-repository`` writes.

Its binary comes with the package nvidia-pytriton, without the backend for ONNX. Triton lets a backend be a file
``model.py``, so the one here loads what the entry holds into ONNX Runtime. Whether a configuration is valid, and how
requests are checked and put together, is Triton's own doing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from alphanet_export.metadata import open_exported
from alphanet_export.onnx_model import open_session, run_logits
from alphanet_export.verify.measure.kserve import KServeClient
from alphanet_export.verify.measure.server_parity import verify_server
from alphanet_export.writers.serving import write_repository
from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import AlphaNetError, ParityError
from tests.export.exported import corrupted, tiny_onnx
from tests.export.verify.measure.servers import python_with, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PACKAGES = ["nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime>=1.23"]
"""Triton 2.51; what it runs Python with cannot read arrays of NumPy 2."""

BACKEND = """
import os
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        responses = []
        for request in requests:
            pixels = triton.get_input_tensor_by_name(request, "pixel_values").as_numpy()
            (logits,) = self.session.run(["logits"], {"pixel_values": pixels})
            responses.append(triton.InferenceResponse([triton.Tensor("logits", logits)]))
        return responses
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``fixed.onnx`` takes one image, ``many.onnx`` any number; ``other.onnx`` has other weights."""
    folder = tmp_path_factory.mktemp("files")
    contents = {"fixed": tiny_onnx(), "many": tiny_onnx(dynamic_batch=True), "other": corrupted(tiny_onnx())}
    for name, content in contents.items():
        (folder / f"{name}.onnx").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def server(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Triton that serves the three."""
    root = tmp_path_factory.mktemp("triton")
    python = python_with(PACKAGES, root / "venv")
    (packages,) = (root / "venv" / "lib").glob("python*/site-packages")
    triton = packages / "pytriton" / "tritonserver"
    shutil.copy(triton / "python_backend_stubs" / packages.parent.name.removeprefix("python")
                / "triton_python_backend_stub", triton / "backends" / "python")  # fmt: skip
    (triton / "backends" / "onnxruntime").mkdir()
    (triton / "backends" / "onnxruntime" / "model.py").write_text(BACKEND)
    for name in ("fixed", "many", "other"):
        write_repository(files / f"{name}.onnx", root / "models", name=name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"), "PYTHONPATH": str(packages),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    command = [triton / "bin" / "tritonserver", f"--model-repository={root / 'models'}",
               f"--backend-directory={triton / 'backends'}", "--http-address=127.0.0.1", f"--http-port={port}",
               "--allow-grpc=false", "--allow-metrics=false"]  # fmt: skip
    with open(root / "log.txt", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, ["fixed", "many", "other"], process, root / "log.txt")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_triton_takes_the_configuration_as_it_is_meant(server: str, files: Path) -> None:
    for name, largest, image, logits in (("fixed", 0, [1, 3, 12, 12], [1, 10]), ("many", 32, [3, 12, 12], [10])):
        with urllib.request.urlopen(f"{server}/v2/models/{name}/config") as answer:
            config = json.load(answer)
        assert (config["platform"], config["max_batch_size"]) == ("onnxruntime_onnx", largest)
        assert (config["input"][0]["dims"], config["output"][0]["dims"]) == (image, logits)
        assert config["output"][0]["label_filename"] == "labels.txt" and ("dynamic_batching" in config) == (largest > 0)
        arch = json.loads(config["parameters"]["alphanet.arch"]["string_value"])
        assert arch == open_exported(files / f"{name}.onnx").arch.to_dict()


@pytest.mark.parametrize("name", ["fixed", "many"])
def test_triton_computes_what_the_file_computes(name: str, server: str, files: Path) -> None:
    report = verify_server(files / f"{name}.onnx", server, name).check()
    assert report.server.name == "triton" and report.model["platform"] == "onnxruntime_onnx"
    assert {encoding.parity.level for encoding in report.encodings} == {"json", "binary"}
    assert all(encoding.parity.max_relative_error <= 1e-6 for encoding in report.encodings)
    with pytest.raises(ParityError, match="does not compute"):
        verify_server(files / f"{name}.onnx", server, "other").check()


def test_the_command_tells_the_two_apart(server: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify-server", str(files / "fixed.onnx"), "--server", server]
    assert main([*words, "--server-model", "fixed"]) == 0 and main([*words, "--server-model", "other"]) == 3
    assert "triton" in capsys.readouterr().out


def test_requests_are_put_together_and_too_large_ones_refused(server: str, files: Path) -> None:
    images = np.random.default_rng(0).standard_normal((24, 3, 12, 12), dtype=np.float32)
    expected = run_logits(open_session(files / "many.onnx"), images)
    with ThreadPoolExecutor(8) as pool:
        asked = pool.map(lambda index: KServeClient(server).logits("many", images[index : index + 3], binary=True),
                         range(0, 24, 3))  # fmt: skip
        np.testing.assert_allclose(np.concatenate(list(asked)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(AlphaNetError, match="must be <= 32"):
        KServeClient(server).logits("many", np.repeat(images, 2, 0), binary=True)
