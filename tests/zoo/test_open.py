"""One function opens everything that identifies a network."""

import json

import pytest
import torch

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.loop import train
from alphanet_zoo.zoo.files import save_net
from alphanet_zoo.zoo.open import open_net


@pytest.fixture(scope="module")
def net():
    return fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 3)).eval()


def same(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_a_file_and_a_folder(net, tmp_path):
    digest = save_net(net, tmp_path / "net.safetensors")
    opened = open_net(tmp_path / "net.safetensors")
    assert (opened.kind, opened.sha256, opened.step) == ("file", digest, None) and same(net, opened.net)
    assert str(opened) == f"12-pixel network of 3 classes from the safetensors file {tmp_path / 'net.safetensors'}"
    net.save_pretrained(tmp_path / "folder")
    opened = open_net(str(tmp_path / "folder"))
    assert (opened.kind, opened.file) == ("folder", tmp_path / "folder" / "model.safetensors")
    assert opened.sha256 == sha256_of(opened.file) and same(net, opened.net)


def test_the_published_checkpoint(upstream_checkpoint):
    opened = open_net(upstream_checkpoint)
    assert opened.kind == "checkpoint" and opened.net.supernet and opened.sha256 == sha256_of(upstream_checkpoint)


def test_a_run_before_and_after_its_end(tmp_path):
    settings = [f"output={tmp_path / 'run'}", "checkpoint_every_steps=2",
                "log.progress=false", "device=cpu", "optim.ema_decay=0.9", "data.batch_size=16",
                "validation.every_epochs=0"]  # fmt: skip
    result = train(load_config("digits", [*settings, "max_steps=4"]))
    opened = open_net(tmp_path / "run")
    assert (opened.kind, opened.file, opened.step) == ("run", result.model, None) and opened.net.supernet
    averaged = open_net(tmp_path / "run", ema=True)
    assert averaged.file.name == "ema.safetensors" and not same(opened.net, averaged.net)
    for file in (result.model, averaged.file):
        file.unlink()
    with pytest.raises(UsageError, match="has not ended"):
        open_net(tmp_path / "run")
    newest = open_net(tmp_path / "run", unfinished=True)
    assert (newest.kind, newest.step, newest.sha256) == ("run", 4, None) and same(opened.net, newest.net)
    assert same(averaged.net, open_net(tmp_path / "run", unfinished=True, ema=True).net)
    assert "step 4" in str(newest)


def test_a_run_without_average_has_none_to_open(tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "config.yaml").write_text("")
    save_net(build_supernet(ALPHANET_TINY, 3), tmp_path / "final" / "model.safetensors")
    with pytest.raises(UsageError, match="no averaged weights"):
        open_net(tmp_path, ema=True)


@pytest.mark.parametrize(
    ("source", "error", "named"),
    [
        ("missing.safetensors", UsageError, "no such file"),
        ("alphanet_a4", AlphaNetError, "not published yet"),
        ("alphanet_a44", UsageError, r"model's name \(did you mean alphanet_a4\?\) nor .*; alphanet models lists"),
        ("someone/net.onnx", UsageError, "no such file"),
        ("{}/net.onnx", UsageError, "is an exported file"),
        ("{}/net.aoti.pt2", UsageError, "is an exported file"),
        ("{}", UsageError, "neither model.safetensors"),
    ],
)
def test_what_is_no_network_is_refused_with_the_remedy(source, error, named, tmp_path):
    for name in ("net.onnx", "net.aoti.pt2"):
        (tmp_path / name).write_bytes(b"exported")
    with pytest.raises(error, match=named):
        open_net(source.format(tmp_path))


def test_a_mistyped_path_sends_no_request(net, tmp_path, monkeypatch):
    save_net(net, tmp_path / "runs" / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"runs/mime.*does not exist in the local folder runs.*hf-hub:runs/mime"):
        open_net("runs/mime")
    (tmp_path / "runs" / "digits").mkdir()
    with pytest.raises(UsageError, match="did you mean runs/digits"):
        AlphaNet.from_pretrained("runs/digit")


def test_a_revision_requires_the_hub(net, tmp_path):
    save_net(net, tmp_path / "net.safetensors")
    with pytest.raises(UsageError, match="requires a Hub repository"):
        open_net(tmp_path / "net.safetensors", revision="main")


def test_a_damaged_folder_is_refused(net, tmp_path):
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"weights_sha256": "0" * 64}))
    with pytest.raises(AlphaNetError, match="SHA-256"):
        open_net(tmp_path)
