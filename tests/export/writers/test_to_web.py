"""The files of the page; tests/export/writers/test_web_page.py runs it in a browser."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alphanet_export.metadata import open_exported
from alphanet_export.writers.ort_web import ORT_WEB_FILES, ORT_WEB_VERSION
from alphanet_export.writers.to_web import write_web
from alphanet_zoo.errors import AlphaNetError, MissingProgramError, UsageError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder laid out as the unpacked npm package; the files hold their names."""
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in ORT_WEB_FILES:
        (folder / "dist" / name).write_text(name)
    (folder / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "9.8.7"}))
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to a page that its own serve.py serves."""
    server = subprocess.Popen(
        [sys.executable, str(folder / "serve.py"), "--port", "0"], stdout=subprocess.PIPE, text=True, cwd="/"
    )
    assert server.stdout is not None
    try:
        address = server.stdout.readline().split()[0].removeprefix("http://").rstrip("/")
        connection = http.client.HTTPConnection(address, timeout=20)
        yield connection
        connection.close()
    finally:
        server.terminate()
        server.communicate(timeout=20)


def test_the_page_is_whole_and_says_what_the_model_is(exported: Path, package: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page"
    written = write_web(exported, page, package)
    assert written == {path: path.stat().st_size for path in page.rglob("*") if path.is_file()}
    names = {str(path.relative_to(page)) for path in written}
    assert names == {"index.html", "app.js", "style.css", "serve.py", "model.json", "model.onnx", "ort/package.json",
                     *(f"ort/{name}" for name in ORT_WEB_FILES)}  # fmt: skip
    assert (page / "model.onnx").read_bytes() == exported.read_bytes()
    assert (page / "ort" / ORT_WEB_FILES[1]).read_text() == ORT_WEB_FILES[1]
    facts, model = json.loads((page / "model.json").read_text()), open_exported(exported)
    assert facts["arch"] == model.arch.to_dict() and facts["preprocessing"] == model.preprocessing.to_dict()
    assert facts["macs"] == model.metadata["macs"] and facts["params"] == model.metadata["params"]
    assert facts["labels"] == [str(index) for index in range(10)] and facts["input_size"] == 12
    assert facts["file_sha256"] == model.file_sha256 and facts["ort_web"] == "9.8.7"


def test_the_page_names_no_other_host(exported: Path, package: Path, tmp_path: Path) -> None:
    write_web(exported, tmp_path / "page", package)
    for name in ("index.html", "app.js", "style.css"):
        text = (tmp_path / "page" / name).read_text().replace("http://www.w3.org/", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text, name


def test_serve_py_isolates_the_page(exported: Path, package: Path, tmp_path: Path) -> None:
    write_web(exported, tmp_path / "page", package)
    kinds = {"/": "text/html; charset=utf-8", "/app.js": "text/javascript", "/model.json": "application/json",
             f"/ort/{ORT_WEB_FILES[0]}": "text/javascript", f"/ort/{ORT_WEB_FILES[1]}": "application/wasm",
             "/model.onnx": "application/octet-stream"}  # fmt: skip
    with serving(tmp_path / "page") as connection:
        for path, kind in kinds.items():
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, response.headers["Content-Type"], bool(response.read())) == (200, kind, True), path
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        for path in ("/ort/", "/../tiny.onnx", "/%2e%2e/tiny.onnx", "/none"):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            assert response.status == 404, path


def test_serve_py_on_a_port_that_is_taken(exported: Path, package: Path, tmp_path: Path) -> None:
    write_web(exported, tmp_path / "page", package)
    with serving(tmp_path / "page") as connection:
        words = [sys.executable, str(tmp_path / "page" / "serve.py"), "--port", str(connection.port)]
        ran = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1 and "--port 0" in ran.stderr


def test_writing_again_replaces_the_page_alone(exported: Path, package: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "mine.txt").write_text("mine")
    (page / "app.js").write_text("old")
    write_web(exported, page, package)
    assert (page / "mine.txt").read_text() == "mine" and (page / "app.js").read_text().startswith("// AlphaNet")


def test_what_is_no_package(exported: Path, package: Path, tmp_path: Path) -> None:
    (package / "package.json").write_text('{"name": "other"}')
    with pytest.raises(UsageError, match=r"lacks a package.json.*node_modules/onnxruntime-web"):
        write_web(exported, tmp_path / "page", package)
    (package / "dist" / ORT_WEB_FILES[3]).unlink()
    with pytest.raises(UsageError, match=f"lacks dist/{ORT_WEB_FILES[3]}"):
        write_web(exported, tmp_path / "page", package)
    assert not (tmp_path / "page").exists()


def test_without_npm_the_remedy_is_named(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingProgramError, match=f"npm, which downloads .* onnxruntime-web {ORT_WEB_VERSION} with --ort-web"
    ):
        write_web(exported, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_an_npm_that_fails_is_quoted(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(AlphaNetError, match=r"npm error code E404.*--ort-web") as caught:
        write_web(exported, tmp_path / "page")
    assert caught.value.exit_code == 1 and not (tmp_path / "page").exists()
