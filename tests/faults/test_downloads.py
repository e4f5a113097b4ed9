"""F17 to F23: downloads that are cut, tampered with, interrupted or shared, against a Hub on loopback."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer, _Handler
from tests.zoo.saved import live_net

pytestmark = pytest.mark.slow  # Every load is a process of its own.

LOAD = """
import alphanet_zoo as az
from alphanet_zoo.errors import AlphaNetError
try:
    az.AlphaNet.from_pretrained("lab/net")
    print("ok")
except AlphaNetError as error:
    print("AlphaNetError", error)
except BaseException as error:
    print("RAW", type(error).__name__, error)
"""


class FaultyHandler(_Handler):
    """Spoils the next downloads of weights: ``server.fault`` is a kind and a number."""

    def _send_file(self, data: bytes, commit: str, key: tuple[str, str]) -> None:
        kind, left = self.server.fault  # type: ignore[attr-defined]
        if self.command != "GET" or not key[1].endswith(".safetensors") or left <= 0:
            return super()._send_file(data, commit, key)
        self.server.fault = (kind, left - 1)  # type: ignore[attr-defined]
        if kind == "503":
            return self._answer(503)
        self.send_response(200)
        for name, value in {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit, "Content-Length": str(len(data))
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if kind == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        for start in range(0, len(data), 4096):
            self.wfile.write(data[start : start + 4096])
            self.wfile.flush()
            time.sleep(0.05)
        return None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    live_net().save_pretrained(tmp_path / "net")
    with HubServer() as hub:
        hub.RequestHandlerClass = FaultyHandler
        hub.fault = ("", 0)  # type: ignore[attr-defined]
        hub.handle_error = lambda *_: None  # type: ignore[method-assign]
        hub.publish("lab/net", tmp_path / "net")
        yield hub


UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
"""Makes permissions bind root too."""


def bound() -> list[str] | None:
    """The start of a command that permissions bind; None if there is none."""
    if os.name == "nt":
        return None
    if os.geteuid():
        return []
    works = shutil.which("setpriv") and subprocess.run([*UNPRIVILEGED, "true"], capture_output=True).returncode == 0
    return UNPRIVILEGED if works else None


def start(server: HubServer, home: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """A process that loads the repository; ``words`` begin its command."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    own = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    own |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
    return subprocess.Popen(
        [*words, sys.executable, "-W", "ignore", "-c", LOAD], env=kept | own, stdout=subprocess.PIPE, text=True
    )


def load(server: HubServer, home: Path, *words: str, **more: str) -> str:
    """What a process that loads the repository prints."""
    return start(server, home, *words, **more).communicate(timeout=200)[0].strip()


@pytest.mark.parametrize("kind", ["503", "cut"])
def test_one_fault_is_overcome_and_a_lasting_one_is_a_bounded_error(
    server: HubServer, tmp_path: Path, kind: str
) -> None:
    server.fault = (kind, 1)  # type: ignore[attr-defined]
    assert load(server, tmp_path / "once") == "ok"
    server.fault = (kind, 10**6)  # type: ignore[attr-defined]
    begin = time.monotonic()
    answer = load(server, tmp_path / "always")
    assert answer.startswith("AlphaNetError") and "lab/net" in answer and time.monotonic() - begin < 150
    blobs = [path for path in (tmp_path / "always").rglob("blobs/*") if path.stat().st_size > 20_000]
    assert not [path for path in blobs if not path.name.endswith(".incomplete")], "a cut file counts as whole"


def test_a_killed_download_leaves_nothing_behind(server: HubServer, tmp_path: Path) -> None:
    server.fault = ("slow", 9)  # type: ignore[attr-defined]
    process = start(server, tmp_path / "home")
    while not list((tmp_path / "home").rglob("*.incomplete")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    server.fault = ("", 0)  # type: ignore[attr-defined]
    assert load(server, tmp_path / "home") == "ok"
    assert list((tmp_path / "home").rglob("*.incomplete")) == []


def test_a_damaged_config_heals(server: HubServer, tmp_path: Path) -> None:
    server.spoil("lab/net", "config.json", 1)
    assert load(server, tmp_path / "home") == "ok"


def test_eight_processes_load_at_once(server: HubServer, tmp_path: Path) -> None:
    processes = [start(server, tmp_path / "home") for _ in range(8)]
    assert [process.communicate(timeout=280)[0].strip() for process in processes] == ["ok"] * 8


def test_no_raw_error_while_every_download_is_tampered_with(server: HubServer, tmp_path: Path) -> None:
    server.spoil("lab/net", "model.safetensors", 10**6)
    processes = [start(server, tmp_path / "home") for _ in range(4)]
    answers = [process.communicate(timeout=280)[0].strip() for process in processes]
    assert all(answer.startswith("AlphaNetError") for answer in answers), answers


@pytest.mark.skipif(bound() is None, reason="permissions do not bind this user")
def test_a_read_only_cache_works_and_a_missing_file_is_explained(server: HubServer, tmp_path: Path) -> None:
    home, words = tmp_path / "home", bound() or []
    assert load(server, home) == "ok"
    for folder, _, _ in os.walk(home):
        os.chmod(folder, 0o500)
    try:
        assert load(server, home, *words) == "ok"
        server.publish("lab/net", {"config.json": b"{}", "model.safetensors": b"new"})
        answer = load(server, home, *words)
        assert answer.startswith("AlphaNetError") and "lab/net" in answer, answer
    finally:
        for folder, _, _ in os.walk(home):
            os.chmod(folder, 0o700)
