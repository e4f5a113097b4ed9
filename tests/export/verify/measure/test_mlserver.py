"""A real inference server, MLServer in an environment of its own, against the file that it serves."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from alphanet_export.verify.measure.server_parity import verify_server
from alphanet_zoo.errors import AlphaNetError, ParityError
from tests.export.exported import corrupted, tiny_onnx
from tests.export.verify.measure.servers import python_with, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PACKAGES = ["mlserver==1.7.1", "onnxruntime>=1.23"]

RUNTIME = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class ExportedModel(MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        (logits,) = self.session.run(["logits"], feeds)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)])
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with MLServer."""
    return python_with(PACKAGES, tmp_path_factory.mktemp("mlserver") / "venv")


@pytest.fixture(scope="module")
def server(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLServer with the models ``tiny`` and ``other``, which has other weights."""
    root = tmp_path_factory.mktemp("models")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [free.getsockname()[1] for free in sockets]
    settings = dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
    (root / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **settings}))
    image = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 12, 12]}
    logits = {"name": "logits", "datatype": "FP32", "shape": [1, 10]}
    for name, content in (("tiny", tiny_onnx()), ("other", corrupted(tiny_onnx()))):
        (root / name).mkdir()
        (root / name / "model.onnx").write_bytes(content)
        model = {"name": name, "implementation": "onnx_runtime.ExportedModel", "platform": "onnx", "inputs": [image],
                 "outputs": [logits], "parameters": {"uri": str(root / name / "model.onnx")}}  # fmt: skip
        (root / name / "model-settings.json").write_text(json.dumps(model))
    (root / "onnx_runtime.py").write_text(RUNTIME)
    with open(root / "log.txt", "w") as log:
        process = subprocess.Popen(
            [str(python.parent / "mlserver"), "start", str(root)], cwd=root, stdout=log, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        wait_until_ready(url, ["tiny", "other"], process, root / "log.txt")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_mlserver_computes_what_the_file_computes(server: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx())
    report = verify_server(path, server).check()
    assert report.server.name == "mlserver" and report.model["platform"] == "onnx"
    assert all(encoding.parity.max_relative_error <= 1e-6 for encoding in report.encodings)
    with pytest.raises(ParityError, match="does not compute"):
        verify_server(path, server, "other").check()
    with pytest.raises(AlphaNetError, match="404"):
        verify_server(path, server, "none")
