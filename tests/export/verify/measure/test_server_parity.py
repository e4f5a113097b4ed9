"""A running server against the file it should serve, over HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alphanet_export.verify.measure.kserve import KServeClient
from alphanet_export.verify.measure.server_parity import verify_server
from alphanet_zoo.errors import AlphaNetError, ParityError, UsageError
from tests.export.exported import corrupted, tiny_onnx, write_images
from tests.kserve_server import KServeServer


@pytest.fixture
def server() -> Iterator[KServeServer]:
    with KServeServer(tiny_onnx(), "tiny") as server:
        yield server


def test_the_same_file_holds_in_json_and_in_bytes(exported: Path, server: KServeServer, tmp_path: Path) -> None:
    report = verify_server(exported, server.url + "/").check()
    assert [encoding.parity.level for encoding in report.encodings] == ["json", "binary"]
    assert server.infers == ["json"] * 8 + ["binary"] * 8
    for encoding in report.encodings:
        assert encoding.parity.max_relative_error <= 1e-6 and encoding.parity.top1_agreement == 1
        assert encoding.median_ms > 0
    assert report.images == 8 and report.synthetic
    text = report.to_text()
    assert server.url in text and "test server 1.0" in text and "versions 1" in text and "holds" in text
    report.write(tmp_path / "server.json")
    stored = json.loads((tmp_path / "server.json").read_text())
    assert stored["holds"] is True and stored["encodings"][1]["parity"]["level"] == "binary"


def test_json_alone_where_the_server_has_no_binary(exported: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    with KServeServer(tiny_onnx(), "digits", binary=False) as server:
        report = verify_server(exported, server.url, "digits", data=images, limit=3).check()
        assert server.infers == ["json"] * 3
    assert (report.images, report.synthetic, len(report.encodings)) == (3, False, 1)
    assert "binary:  not measured" in report.to_text()


def test_a_server_of_a_model_that_takes_any_batch(tmp_path: Path) -> None:
    path = tmp_path / "any.onnx"
    path.write_bytes(tiny_onnx(dynamic_batch=True))
    with KServeServer(path.read_bytes(), "tiny") as server:
        assert server.metadata()["inputs"][0]["shape"] == [-1, 3, 12, 12]
        verify_server(path, server.url).check()
        images = np.ones((5, 3, 12, 12), np.float32)
        both = [KServeClient(server.url).logits("tiny", images, binary=binary) for binary in (False, True)]
    assert both[0].shape == (5, 10) and np.array_equal(*both)


def test_other_weights_break_parity(exported: Path) -> None:
    with KServeServer(corrupted(tiny_onnx()), "tiny") as server:
        report = verify_server(exported, server.url)
        assert not report.holds and "broken" in report.to_text()
        with pytest.raises(ParityError, match="does not compute what tiny.onnx computes"):
            report.check()
        verify_server(exported, server.url, tolerance=10.0)


def test_other_classes_are_another_model(exported: Path) -> None:
    with KServeServer(tiny_onnx(num_classes=7), "tiny") as server, pytest.raises(ParityError, match="outputs"):
        verify_server(exported, server.url)


def test_servers_that_do_not_answer_as_they_should(exported: Path, server: KServeServer) -> None:
    with pytest.raises(AlphaNetError, match=r"404.*check its address") as caught:
        verify_server(exported, server.url, "none")
    assert caught.value.exit_code == 1
    with pytest.raises(AlphaNetError, match="not ready"):
        verify_server(exported, server.url + "/elsewhere")
    server.ready = False
    with pytest.raises(AlphaNetError, match="not ready"):
        verify_server(exported, server.url)
    with pytest.raises(AlphaNetError, match="400"):
        KServeClient(server.url).logits("tiny", np.ones((1, 3, 5, 5), np.float32), binary=False)


def test_nobody_listens(exported: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(AlphaNetError, match="cannot reach the server") as caught:
        verify_server(exported, f"http://127.0.0.1:{port}")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://host:port", "http://h/?a=b"])
def test_other_texts_are_not_an_address(url: str) -> None:
    with pytest.raises(UsageError, match="is not a server address"):
        KServeClient(url)
