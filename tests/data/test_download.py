import hashlib
import io
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from alphanet_zoo.cli.train import main


class PatientServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up early is no news."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def authors(tmp_path, monkeypatch):
    """A server on this machine with an archive like CIFAR-10's, in its authors' place."""
    served = tmp_path / "served"
    served.mkdir()
    rng = np.random.default_rng(0)
    with tarfile.open(served / CIFAR10.filename, "w:gz") as archive:
        names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        batches = {name: {b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), b"labels": [0, 1, 0, 1]}
                   for name in names}  # fmt: skip
        for name, value in {**batches, "batches.meta": {b"label_names": [b"cat", b"dog"]}}.items():
            content = pickle.dumps(value, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    server = PatientServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
    digest = hashlib.md5((served / CIFAR10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", digest)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def command(tmp_path, *overrides):
    return ["--config", "alphanet_cifar10", f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'run'}",
            "data.batch_size=4", "data.workers=0", "max_steps=1", "validation.every_epochs=0", "log.progress=false",
            "device=cpu", *overrides]  # fmt: skip


def test_cifar_is_fetched_once_where_that_is_asked_for(authors, tmp_path, monkeypatch, capsys):
    assert main(command(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "data.download=true" in error and error.count("\n") == 1 and not (tmp_path / "run").exists()
    assert main(command(tmp_path, "data.download=true")) == 0
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-batches-py"]
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/none")
    assert main(command(tmp_path, "data.download=true")) == 0


@pytest.mark.parametrize(("name", "value"), [("url", "http://127.0.0.1:1/none.tar.gz"), ("tgz_md5", "0" * 32)])
def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(name, value, authors, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(CIFAR10, name, value)
    assert main(command(tmp_path, "data.download=true")) == 1
    error = capsys.readouterr().err
    assert "cannot fetch CIFAR-10" in error.splitlines()[-1] and "Traceback" not in error
    assert not list((tmp_path / "data").iterdir()) and not (tmp_path / "run").exists()


def test_only_cifar_is_fetched(tmp_path, capsys):
    assert main(["--config", "digits", "data.download=true", f"output={tmp_path / 'run'}"]) == 2
    assert "download has no effect" in capsys.readouterr().err
