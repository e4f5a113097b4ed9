"""CIFAR-10 as torchvision reads it: digests are checked before anything is unpickled."""

import hashlib
import io
import os
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from alphanet_zoo.cli.train import main
from alphanet_zoo.data.batches import TrainingBatches
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import CIFAR_FOLDER, Cifar10Source, open_source
from alphanet_zoo.errors import AlphaNetError, UsageError

FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


class PatientServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up early is no news."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def cifar_batch(seed, count=4):
    rng = np.random.default_rng(seed)
    return {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": [seed % 2] * count}


@pytest.fixture
def contents(monkeypatch):
    """Files like CIFAR-10's, with four images each, whose digests torchvision expects."""
    files = {name: pickle.dumps(cifar_batch(seed), protocol=2) for seed, name in enumerate(FILES, 1)}
    files["batches.meta"] = pickle.dumps({"label_names": ["cat", "dog"]}, protocol=2)
    digests = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, digests[name]] for name in FILES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[FILES[5], digests[FILES[5]]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": digests["batches.meta"]})
    return files


@pytest.fixture
def cifar(contents, tmp_path):
    """A folder that has them."""
    folder = tmp_path / CIFAR_FOLDER
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def authors(contents, tmp_path, monkeypatch):
    """A server on this machine with an archive like CIFAR-10's, in its authors' place."""
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / CIFAR10.filename, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{CIFAR_FOLDER}/{name}")
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


def config_of(root, **settings):
    return DataConfig(root=str(root), source="cifar10", image_size=32, batch_size=4, **settings)


def test_images_labels_and_names_are_those_of_the_files(cifar):
    train, val = Cifar10Source(cifar, "train"), Cifar10Source(cifar, "val")
    assert train.classes == ["cat", "dog"] and len(train) == 20 and len(val) == 4
    assert train.labels.tolist() == [1] * 4 + [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert np.array_equal(train.load(10), cifar_batch(3)["data"][2].reshape(3, 32, 32))
    assert np.array_equal(val.load(0), cifar_batch(6)["data"][0].reshape(3, 32, 32))
    assert train.load(0).dtype == torch.uint8 and train.load(0).is_contiguous()


@pytest.mark.parametrize("inside", [False, True])
def test_the_config_finds_cifar_beside_or_at_its_root(cifar, inside):
    root = cifar / CIFAR_FOLDER if inside else cifar
    config = config_of(root, transform="cifar", autoaugment=True)
    assert len(open_source(config)) == 20 and len(open_source(config, "val")) == 4
    preprocessing = Preprocessing(224, 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    batches = TrainingBatches(config, preprocessing, 0)
    assert batches.steps_per_epoch == 5 and batches.batch(0).images.shape == (4, 3, 32, 32)


def test_cifar_may_be_a_folder_of_images(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / split / "x").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / split / "x" / f"{name}.png")
    for split in ("train", "val"):
        assert len(open_source(config_of(tmp_path), split)) == 1


def test_where_there_is_no_cifar_it_says_how_to_get_it(tmp_path):
    with pytest.raises(UsageError, match=r"data.download=true"):
        open_source(config_of(tmp_path))
    (tmp_path / CIFAR_FOLDER).mkdir()
    with pytest.raises(AlphaNetError, match=r"cannot read CIFAR-10 in .*data\.download=true"):
        open_source(config_of(tmp_path))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
@pytest.mark.parametrize("content", [pickle.dumps(Harmful()), b"", None], ids=["harmful", "empty", "missing"])
def test_what_is_not_cifar_is_refused_and_runs_nothing(cifar, name, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = cifar / CIFAR_FOLDER / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(AlphaNetError, match="cannot read CIFAR-10"):
        Cifar10Source(cifar, "train")
    assert not (tmp_path / "harm").exists()


def command(tmp_path, *overrides):
    return ["--config", "alphanet_cifar10", f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'run'}",
            "data.batch_size=4", "data.workers=0", "max_steps=1", "validation.every_epochs=0", "log.progress=false",
            "device=cpu", *overrides]  # fmt: skip


def test_cifar_is_fetched_once_where_that_is_asked_for(authors, tmp_path, monkeypatch, capsys):
    assert main(command(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "data.download=true" in error and error.count("\n") == 1 and not (tmp_path / "run").exists()
    assert main(command(tmp_path, "data.download=true")) == 0
    assert [path.name for path in (tmp_path / "data").iterdir()] == [CIFAR_FOLDER]
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/none")
    assert main(command(tmp_path, "data.download=true")) == 0


@pytest.mark.parametrize(("name", "value"), [("url", "http://127.0.0.1:1/none.tar.gz"), ("tgz_md5", "0" * 32)])
def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(name, value, authors, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(CIFAR10, name, value)
    assert main(command(tmp_path, "data.download=true")) == 1
    error = capsys.readouterr().err
    assert "cannot download CIFAR-10" in error.splitlines()[-1] and "Traceback" not in error
    assert not list((tmp_path / "data").iterdir()) and not (tmp_path / "run").exists()


def test_only_cifar_is_fetched(tmp_path, capsys):
    assert main(["--config", "digits", "data.download=true", f"output={tmp_path / 'run'}"]) == 2
    assert "download has no effect" in capsys.readouterr().err
