"""A client for inference servers with KServe's v2 protocol over HTTP, such as Triton and MLServer.

Source: Open Inference Protocol, HTTP/REST, and its binary tensor data extension.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME, FloatArray
from alphanet_zoo.errors import AlphaNetError, UsageError

BINARY = "binary_tensor_data"
"""Name of the protocol extension that sends tensors as bytes."""

_HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class ServerFacts:
    """The metadata of a server.

    Args:
        name: Name of the server software.
        version: Version of the server software.
        extensions: Protocol extensions that it supports.
    """

    name: str
    version: str
    extensions: tuple[str, ...]

    @property
    def takes_binary(self) -> bool:
        """Whether the server supports tensors as bytes."""
        return BINARY in self.extensions


class KServeClient:
    """A client of one server. Every request uses a new connection.

    Raises:
        UsageError: The address is not of the form ``http://host:port``.
    """

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        """Checks the address ``url``, which may contain a path; ``timeout`` of requests is in seconds."""
        self.url = url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UsageError(f"{url!r} is not a server address; pass one such as http://localhost:8000")
        connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection, self._host, self._port, self._timeout = connection, parts.hostname, port, timeout
        self._prefix = parts.path

    def check_ready(self) -> None:
        """Checks that the server is ready.

        Raises:
            AlphaNetError: It cannot be reached, or is not ready.
        """
        status, _, body = self._request("GET", "/v2/health/ready")
        if status != 200 or _is_false(body, "ready"):
            raise AlphaNetError(f"the server at {self.url} is not ready (status {status}); wait until it is")

    def server_facts(self) -> ServerFacts:
        """The metadata of the server.

        Raises:
            AlphaNetError: It cannot be reached, or does not support the protocol.
        """
        facts = self._json("GET", "/v2")
        return ServerFacts(
            str(facts.get("name", "?")), str(facts.get("version", "?")), tuple(map(str, facts.get("extensions") or ()))
        )

    def model_facts(self, name: str) -> dict[str, Any]:
        """The metadata of a model: ``name``, ``platform``, ``inputs`` and ``outputs``.

        Raises:
            AlphaNetError: The server cannot be reached or has no such model.
        """
        return self._json("GET", f"/v2/models/{quote(name, safe='')}")

    def logits(self, name: str, images: FloatArray, *, binary: bool) -> FloatArray:
        """Logits ``(N, classes)`` of normalised images ``(N, 3, S, S)``, in one request.

        Args:
            name: The model.
            images: Normalised pixels.
            binary: Send and receive the tensors as bytes; the server must have the extension `BINARY`.

        Raises:
            AlphaNetError: The server cannot be reached, returns an error, or violates the protocol.
        """
        body, headers = _infer_request(images, binary)
        status, received, answer = self._request("POST", f"/v2/models/{quote(name, safe='')}/infer", body, headers)
        length = received.get(_HEADER_LENGTH, "")
        size = int(length) if length.isdigit() else len(answer)
        return self._tensor(self._decoded(status, answer[:size], f"model {name!r}"), answer[size:])

    def _tensor(self, answer: dict[str, Any], tail: bytes) -> FloatArray:
        """The logits in a JSON response, or in the bytes after it."""
        try:
            (tensor,) = (output for output in answer["outputs"] if output["name"] == OUTPUT_NAME)
            if tensor["datatype"] != "FP32":
                raise ValueError(f"data type {tensor['datatype']}")
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            values = np.array(tensor["data"], np.float32) if size is None else np.frombuffer(tail, "<f4", size // 4)
            return values.reshape(tensor["shape"]).astype(np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise AlphaNetError(
                f"the response of {self.url} contains no float32 tensor {OUTPUT_NAME!r} ({error!r}); "
                "load a file that alphanet export wrote into the server"
            ) from error

    def _json(self, method: str, path: str) -> dict[str, Any]:
        """The JSON object that the server returns."""
        status, _, body = self._request(method, path)
        return self._decoded(status, body, path)

    def _decoded(self, status: int, body: bytes, asked: str) -> dict[str, Any]:
        """The JSON object in a response; ``asked`` is the request, for the message."""
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        text = str(answer.get("error") or answer) if isinstance(answer, dict) else body[:200].decode("utf-8", "replace")
        raise AlphaNetError(
            f"the server at {self.url} returned status {status} for {asked}: {text}; "
            "check its address, and that it has loaded the model"
        )

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of a response."""
        connection = self._connection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, self._prefix + path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise AlphaNetError(
                f"cannot reach the server at {self.url}: {error or type(error).__name__}; start it, or correct --server"
            ) from error
        finally:
            connection.close()


def _infer_request(images: FloatArray, binary: bool) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request for the logits of images."""
    tensor: dict[str, Any] = {"name": INPUT_NAME, "shape": list(images.shape), "datatype": "FP32"}
    output: dict[str, Any] = {"name": OUTPUT_NAME}
    if not binary:
        tensor["data"] = np.asarray(images, np.float32).ravel().tolist()
        return json.dumps({"inputs": [tensor], "outputs": [output]}).encode(), {"Content-Type": "application/json"}
    tail = np.ascontiguousarray(images, "<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(tail)}
    output["parameters"] = {"binary_data": True}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    return head + tail, {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(head))}


def _is_false(body: bytes, key: str) -> bool:
    """Whether a body is a JSON object in which ``key`` is false. Many servers return an empty body."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get(key) is False
