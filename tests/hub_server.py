"""A small Hugging Face Hub on loopback, and a process that talks to it.

`HubServer` answers what ``huggingface_hub`` asks for when it downloads, makes a repository and uploads (regular and
LFS files). It counts requests and can spoil what it serves. `HubClient` is a Python process whose ``HF_ENDPOINT`` is
set before anything is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml


class HubServer(ThreadingHTTPServer):
    """A Hub with the repositories that tests `publish` to it; a context manager."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.refs: dict[str, dict[str, str]] = {}
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.spoiled: dict[tuple[str, str], float] = {}
        self.requests: list[tuple[str, str]] = []

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def publish(self, repo: str, files: Mapping[str, bytes] | Path) -> str:
        """Commits files (or those of a folder) to a repository's ``main``; returns the commit."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir()}
        text = repo + "".join(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items()))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[repo, commit] = dict(files)
        self.refs.setdefault(repo, {})["main"] = commit
        return commit

    def spoil(self, repo: str, name: str, times: float = 1) -> None:
        """Serves a file with one byte changed, under its true size and ETag, for so many downloads."""
        self.spoiled[repo, name] = times

    def files(self, repo: str) -> dict[str, bytes]:
        """What stands on a repository's ``main``."""
        return self.commits[repo, self.refs[repo]["main"]]

    def count(self, method: str, ending: str = "") -> int:
        """How many requests of this method had a path with this ending."""
        return sum(m == method and path.endswith(ending) for m, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keeps the terminal quiet."""

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        self._resolve()

    def do_PUT(self) -> None:
        self.server.requests.append(("PUT", self.path))
        self.server.uploads[self.path.rpartition("/")[2]] = self._body()
        self._answer(200)

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(("POST", path))
        body = self._body()
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            faults = [f"{key} is missing" for key in ("license", "tags") if not front.get(key)]
            self._answer_json({"errors": [{"message": fault} for fault in faults], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            self._preupload(json.loads(body))
        elif re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self._lfs_batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer_json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _resolve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo, revision, name = match.groups() if match else ("", "", "")
        if repo not in self.server.refs:
            return self._answer(404, X_Error_Code="RepoNotFound")
        if repo in self.server.gated:
            return self._answer(403, X_Error_Code="GatedRepo")
        commit = self.server.refs[repo].get(revision, revision)
        if (repo, commit) not in self.server.commits:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        files = self.server.commits[repo, commit]
        if name not in files:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        self._send_file(files[name], commit, (repo, name))

    def _send_file(self, data: bytes, commit: str, key: tuple[str, str]) -> None:
        digest = hashlib.sha256(data).hexdigest()
        size = len(data)
        headers = {"ETag": f'"{digest}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if key[1].endswith(".safetensors"):
            headers |= {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(size)}
        if self.command == "GET" and self.server.spoiled.get(key, 0) > 0:
            self.server.spoiled[key] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self._answer(200, data, **headers)
        first, last = int(span[1]), int(span[2] or size - 1)
        if first >= size:
            return self._answer(416, Content_Range=f"bytes */{size}")
        self._answer(
            206, data[first : last + 1], Content_Range=f"bytes {first}-{min(last, size - 1)}/{size}", **headers
        )

    def _create(self, request: dict[str, Any]) -> None:
        repo = f"{request.get('organization') or 'tester'}/{request['name']}"
        status = 409 if repo in self.server.refs else 200
        if status == 200:
            self.server.publish(repo, {})
        self._answer_json({"url": f"{self.server.url}/{repo}", "name": repo, "id": repo}, status)

    def _preupload(self, request: dict[str, Any]) -> None:
        modes = [
            {"path": file["path"], "shouldIgnore": False}
            | {"uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
            for file in request["files"]
        ]
        self._answer_json({"files": modes})

    def _lfs_batch(self, request: dict[str, Any]) -> None:
        objects = [
            {"oid": item["oid"], "size": item["size"]}
            | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}", "header": {}}}}
            for item in request["objects"]
        ]
        self._answer_json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.server.files(repo))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
        commit = self.server.publish(repo, files)
        url = f"{self.server.url}/{repo}/commit/{commit}"
        self._answer_json({"success": True, "commitOid": commit, "commitUrl": url})


_LOOP = """
import json, sys
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    names = json.loads(line)
    try:
        exec(names.pop("code"), names)
        answer = {"value": names.get("result")}
    except Exception as error:
        answer = {"error": type(error).__name__, "code": getattr(error, "exit_code", None), "message": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
"""


class HubClient:
    """A Python process whose Hub is ``server``; a context manager. Call it with code that sets ``result``."""

    def __init__(self, server: HubServer, home: Path, **environment: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        kept.pop("ALPHANET_HUB_ORG", None)
        own = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=kept | own | environment,
        )

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def __call__(self, code: str, **names: Any) -> dict[str, Any]:
        """Runs ``code`` with ``names`` (JSON values); gives its ``value``, or ``error``, ``code``, ``message``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": code, **names}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer
