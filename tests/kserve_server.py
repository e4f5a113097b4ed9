"""A small inference server on loopback that speaks KServe's v2 protocol, with ONNX Runtime inside.

`KServeServer` serves one ONNX file under one name, in JSON and, by default, with the binary extension.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import onnxruntime

TYPES = {"tensor(float)": "FP32"}


class KServeServer(ThreadingHTTPServer):
    """Serves the content of an ONNX file as the model ``name``; a context manager."""

    daemon_threads = True

    def __init__(self, content: bytes, name: str, *, binary: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.model, self.binary, self.ready = name, binary, True
        self.infers: list[str] = []

    def __enter__(self) -> KServeServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def metadata(self) -> dict[str, Any]:
        """What ``GET v2/models/<name>`` answers."""

        def described(values: Any) -> list[dict[str, Any]]:
            return [{"name": value.name, "datatype": TYPES[value.type], "shape": shape(value)} for value in values]

        def shape(value: Any) -> list[int]:
            return [size if isinstance(size, int) else -1 for size in value.shape]

        return {"name": self.model, "versions": ["1"], "platform": "onnxruntime_onnx",
                "inputs": described(self.session.get_inputs()),
                "outputs": described(self.session.get_outputs())}  # fmt: skip

    def infer(self, request: dict[str, Any], tail: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer to an inference request: its JSON, and the bytes behind it."""
        feeds = {}
        for tensor in request["inputs"]:
            size = tensor.get("parameters", {}).get("binary_data_size")
            if size is None:
                values = np.array(tensor["data"], np.float32)
            else:
                values, tail = np.frombuffer(tail[:size], "<f4"), tail[size:]
            feeds[tensor["name"]] = values.reshape(tensor["shape"])
        outputs, blobs = [], b""
        for wanted in request["outputs"]:
            (values,) = self.session.run([wanted["name"]], feeds)
            answer: dict[str, Any] = {"name": wanted["name"], "datatype": "FP32", "shape": list(values.shape)}
            if wanted.get("parameters", {}).get("binary_data"):
                blob = values.astype("<f4").tobytes()
                answer["parameters"], blobs = {"binary_data_size": len(blob)}, blobs + blob
            else:
                answer["data"] = values.ravel().tolist()
            outputs.append(answer)
        return {"model_name": self.model, "outputs": outputs}, blobs


class _Handler(BaseHTTPRequestHandler):
    server: KServeServer

    def do_GET(self) -> None:
        if self.path == "/v2/health/ready":
            self._answer(200 if self.server.ready else 400, b"")
        elif self.path == "/v2":
            extensions = ["model_configuration"] + ["binary_tensor_data"] * self.server.binary
            self._json(200, {"name": "test server", "version": "1.0", "extensions": extensions})
        elif self.path == f"/v2/models/{self.server.model}":
            self._json(200, self.server.metadata())
        else:
            self._json(404, {"error": f"no {self.path} here"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != f"/v2/models/{self.server.model}/infer":
            self._json(404, {"error": f"no {self.path} here"})
            return
        length = self.headers.get("Inference-Header-Content-Length")
        self.server.infers.append("json" if length is None else "binary")
        size = len(body) if length is None else int(length)
        try:
            answer, blobs = self.server.infer(json.loads(body[:size]), body[size:])
        except Exception as error:
            self._json(400, {"error": str(error)})
            return
        head = json.dumps(answer).encode()
        self._answer(200, head + blobs, {"Inference-Header-Content-Length": str(len(head))} if blobs else {})

    def _json(self, status: int, value: dict[str, Any]) -> None:
        self._answer(status, json.dumps(value).encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
