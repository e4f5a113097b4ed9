"""Loading from a Hub that is a real server on loopback, in processes of their own."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.hub_config import from_document
from tests.hub_server import HubClient, HubServer
from tests.zoo.saved import live_net

LOAD = """
from alphanet_zoo import AlphaNet
net = AlphaNet.from_pretrained(repo, **arguments)
result = [net.config(), net.training, float(sum(t.double().sum() for t in net.state_dict().values()))]
"""
CREATE = """
import os
from alphanet_zoo import create_model
os.environ.pop("ALPHANET_HUB_ORG", None)
os.environ |= environment
net = create_model(name, **arguments)
result = [net.arch.to_dict(), net.calibration, net.training, net.pretrained_cfg["architecture"], net.num_classes]
"""


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    with HubClient(server, tmp_path_factory.mktemp("home")) as process:
        yield process


@pytest.fixture(scope="module")
def offline(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    with HubClient(server, tmp_path_factory.mktemp("home"), HF_HUB_OFFLINE="1") as process:
        yield process


@pytest.fixture
def repo(server: HubServer, folder: Path, request: pytest.FixtureRequest) -> str:
    """A repository of this test's own, with the files of `folder`."""
    name = f"someone/{re.sub('[^a-z0-9]+', '-', request.node.name.lower()).strip('-')[:80]}"
    server.publish(name, folder)
    server.requests.clear()
    return name


@pytest.fixture
def load(client: HubClient, repo: str, tmp_path: Path) -> Any:
    """Loads the test's repository through a cache of the test's own."""
    return lambda **arguments: client(LOAD, repo=repo, arguments={"cache_dir": str(tmp_path / "cache")} | arguments)


def cached(tmp_path: Path, name: str = "model.safetensors") -> list[Path]:
    """What the cache holds of a file: snapshot entries, and blobs of its size."""
    blobs = [path for path in tmp_path.rglob("blobs/*") if path.stat().st_size > 20_000]
    return [*tmp_path.rglob(f"snapshots/*/{name}"), *blobs]


def weights_sum(net: AlphaNet) -> float:
    return float(sum(t.double().sum() for t in net.state_dict().values()))


def test_download_restores_the_net_and_then_the_cache_is_used(server: HubServer, load: Any) -> None:
    first = load()
    assert first["value"] == [json.loads(json.dumps(live_net().config())), False, weights_sum(live_net())]
    assert server.count("GET", "model.safetensors") == 1 and server.count("GET", "config.json") == 1
    assert load()["value"] == first["value"]
    assert server.count("GET") == 2


def test_a_prefix_marks_a_repository_whose_organisation_is_also_a_local_folder(
    server: HubServer, client: HubClient, repo: str, tmp_path: Path
) -> None:
    (tmp_path / "someone").mkdir()
    code = f"import contextlib\nwith contextlib.chdir(folder):\n{textwrap.indent(LOAD, '    ')}"
    arguments = {"cache_dir": str(tmp_path / "cache")}
    refused = client(code, folder=str(tmp_path), repo=repo, arguments=arguments)
    assert refused["error"] == "UsageError" and f"pass hf-hub:{repo}" in refused["message"] and not server.requests
    found = client(code, folder=str(tmp_path), repo=f"hf-hub:{repo}", arguments=arguments)
    assert found["value"] == [json.loads(json.dumps(live_net().config())), False, weights_sum(live_net())]


def test_offline_and_air_gapped_caches_work(server: HubServer, load: Any, offline: HubClient, repo: str,
                                            tmp_path: Path) -> None:  # fmt: skip
    expected = load()["value"]
    shutil.copytree(tmp_path / "cache", tmp_path / "carried", symlinks=True)
    shutil.rmtree(tmp_path / "cache")
    server.requests.clear()
    carried = {"cache_dir": str(tmp_path / "carried")}
    assert offline(LOAD, repo=repo, arguments=carried)["value"] == expected
    assert load(local_files_only=True, **carried)["value"] == expected
    empty = offline(LOAD, repo=repo, arguments={"cache_dir": str(tmp_path / "empty")})
    assert (empty["error"], empty["code"]) == ("AlphaNetError", 1)
    assert repo in empty["message"] and "not in the cache" in empty["message"]
    assert server.requests == []


def test_a_corrupt_download_heals(server: HubServer, load: Any, repo: str, tmp_path: Path) -> None:
    server.spoil(repo, "model.safetensors", times=1)
    assert load()["value"][2] == weights_sum(live_net())
    assert server.count("GET", "model.safetensors") == 2
    pointer, blob = cached(tmp_path)
    assert pointer.resolve() == blob.resolve()


def test_a_cache_that_rots_heals(server: HubServer, load: Any, repo: str, tmp_path: Path) -> None:
    load()
    blob = cached(tmp_path)[0].resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    assert load()["value"][2] == weights_sum(live_net())
    assert server.count("GET", "model.safetensors") == 2


def test_a_cache_that_rots_offline_is_an_error(load: Any, offline: HubClient, repo: str, tmp_path: Path) -> None:
    load()
    blob = cached(tmp_path)[0].resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    answer = offline(LOAD, repo=repo, arguments={"cache_dir": str(tmp_path / "cache")})
    assert answer["code"] == 1 and "SHA-256" in answer["message"] and "downloading it again failed" in answer["message"]
    assert cached(tmp_path) == []


def test_corrupt_for_good_fails_and_leaves_nothing(server: HubServer, load: Any, repo: str, tmp_path: Path) -> None:
    server.spoil(repo, "model.safetensors", times=float("inf"))
    answer = load()
    assert (answer["error"], answer["code"]) == ("AlphaNetError", 1)
    assert repo in answer["message"] and "SHA-256" in answer["message"] and "\n" not in answer["message"]
    assert server.count("GET", "model.safetensors") == 2
    assert cached(tmp_path) == []


def test_without_symlinks_a_corrupt_download_is_deleted_too(
    server: HubServer, repo: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server.spoil(repo, "model.safetensors", times=float("inf"))
    with HubClient(server, tmp_path_factory.mktemp("home"), HF_HUB_DISABLE_SYMLINKS="1") as client:
        answer = client(LOAD, repo=repo, arguments={"cache_dir": str(tmp_path)})
        assert answer["code"] == 1 and cached(tmp_path) == []
        server.spoil(repo, "model.safetensors", times=0)
        assert client(LOAD, repo=repo, arguments={"cache_dir": str(tmp_path)})["value"][1] is False
    assert not cached(tmp_path)[0].is_symlink()


def test_a_wrong_digest_in_config_is_refused(server: HubServer, load: Any, repo: str, tmp_path: Path) -> None:
    files = server.files(repo)
    config = json.loads(files["config.json"]) | {"weights_sha256": "0" * 64}
    server.publish(repo, files | {"config.json": json.dumps(config).encode()})
    answer = load()
    assert answer["code"] == 1 and "0" * 64 in answer["message"] and "config.json" in answer["message"]
    assert cached(tmp_path) == []


def test_a_config_without_digest_is_refused(server: HubServer, load: Any, repo: str) -> None:
    files = server.files(repo)
    config = json.loads(files["config.json"])
    del config["weights_sha256"]
    server.publish(repo, files | {"config.json": json.dumps(config).encode()})
    assert load()["code"] == 1 and "weights_sha256" in load()["message"]


def test_the_pin_counts_and_not_the_config(server: HubServer, client: HubClient, repo: str, tmp_path: Path) -> None:
    pinned = """
from alphanet_zoo.zoo.pins import PINS, HubPin
PINS["alphanet_a0"] = HubPin(repo, commit, digest)
try:
    exec(load, globals())
finally:
    PINS.clear()
"""
    commit = server.refs[repo]["main"]
    digest = hashlib.sha256(server.files(repo)["model.safetensors"]).hexdigest()
    other = {"commit": commit, "load": LOAD, "repo": repo, "arguments": {"cache_dir": str(tmp_path)}}
    assert client(pinned, digest=digest, **other)["value"][1] is False
    assert any(f"/resolve/{commit}/" in path for _, path in server.requests)
    answer = client(pinned, digest="f" * 64, **other)
    assert answer["code"] == 1 and "that of the pin is " + "f" * 64 in answer["message"]
    assert cached(tmp_path) == []


def test_a_digest_given_as_argument_counts(load: Any) -> None:
    assert "f" * 64 in load(sha256="f" * 64)["message"]
    assert load(sha256="short")["error"] == "UsageError"


@pytest.mark.parametrize("with_config", [True, False])
def test_a_pickle_is_never_read(server: HubServer, load: Any, repo: str, folder: Path, with_config: bool) -> None:
    files = {"pytorch_model.bin": b"\x80\x02."}
    if with_config:
        files["config.json"] = (folder / "config.json").read_bytes()
    server.publish(repo, files)
    answer = load()
    assert answer["code"] == 1 and repo in answer["message"]
    assert "pickles such as pytorch_model.bin are never read" in answer["message"]
    assert server.count("GET", ".bin") == 0


def changed(
    folder: Path, files: dict[str, bytes], *, metadata: bool, rename: str = "", new: str = ""
) -> dict[str, bytes]:
    """The files with a tensor renamed (or dropped, or halved), and a digest that fits."""
    path = folder / "changed.safetensors"
    path.write_bytes(files["model.safetensors"])
    tensors = load_file(path)
    tensor = tensors.pop(rename)
    if new:
        tensors[new] = tensor[: len(tensor) // 2].contiguous() if new == rename else tensor
    config = json.loads(files["config.json"])
    save_file(tensors, path, metadata={"alphanet": json.dumps(from_document(config))} if metadata else None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    config["weights_sha256"] = digest
    return {"model.safetensors": path.read_bytes(), "config.json": json.dumps(config).encode()}


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("", ["missing: conv_stem.weight"]),
        ("stem.weight", ["missing: conv_stem.weight", "unexpected: stem.weight"]),
        ("conv_stem.weight", ["wrong shape: conv_stem.weight (4, 3, 3, 3), expected (8, 3, 3, 3)"]),
    ],
)
def test_wrong_tensors_are_named(server: HubServer, load: Any, repo: str, tmp_path: Path, metadata: bool, new: str,
                                 told: list[str]) -> None:  # fmt: skip
    files = changed(tmp_path, server.files(repo), metadata=metadata, rename="conv_stem.weight", new=new)
    server.publish(repo, files)
    answer = load()
    assert (answer["error"], answer["code"]) == ("AlphaNetError", 1)
    assert all(part in answer["message"] for part in told)


@pytest.mark.parametrize("metadata", [True, False])
def test_a_config_that_lies_about_the_arch_is_refused(server: HubServer, load: Any, repo: str, tmp_path: Path,
                                                      metadata: bool) -> None:  # fmt: skip
    files = server.files(repo)
    if not metadata:
        files = changed(tmp_path, files, metadata=False, rename="conv_stem.weight", new="stem.weight")
    config = json.loads(files["config.json"])
    config["alphanet"]["arch"] = ALPHANET_TINY.largest.to_dict()
    server.publish(repo, files | {"config.json": json.dumps(config).encode()})
    answer = load()
    assert answer["code"] == 1
    assert ("differ in arch" if metadata else "wrong shape") in answer["message"]


def test_a_missing_repository_or_revision_and_a_gate_have_different_messages(
    server: HubServer, load: Any, client: HubClient, repo: str, tmp_path: Path
) -> None:
    missing = client(LOAD, repo="someone/nowhere", arguments={"cache_dir": str(tmp_path)})
    assert missing["code"] == 1 and "someone/nowhere does not exist" in missing["message"]
    assert "no such revision" in load(revision="v9")["message"]
    server.gated.add(repo)
    gated = load()
    assert gated["code"] == 1 and f"{repo} is gated" in gated["message"] and "\n" not in gated["message"]


@pytest.mark.parametrize(
    "source", ["alphanet_a5", "./nowhere", "/nowhere/net", "a/b/c", "", "org/../x", "some--one/net"]
)
def test_what_is_no_repository_sends_no_request(server: HubServer, client: HubClient, source: str) -> None:
    server.requests.clear()
    answer = client(LOAD, repo=source, arguments={})
    assert (answer["error"], answer["code"]) == ("UsageError", 2)
    assert server.requests == []


def test_unpublished_weights_send_no_request(server: HubServer, client: HubClient) -> None:
    server.requests.clear()
    answer = client(CREATE, name="alphanet_a5", arguments={"pretrained": True}, environment={})
    assert (answer["error"], answer["code"]) == ("AlphaNetError", 1)
    for word in ("not published yet", "alphanet convert", "--weights PATH", "--weights random",
                 "ALPHANET_HUB_ORG"):  # fmt: skip
        assert word in answer["message"]
    assert server.requests == []


def test_an_organisation_or_an_argument_names_the_repository(
    server: HubServer, client: HubClient, tmp_path: Path
) -> None:
    made = client("""
from alphanet_zoo import create_model
net = create_model("alphanet_a0", weights="random")
net.calibration = {"images": 1, "batches": 1, "digest": "00"}
net.save_pretrained(folder)
""", folder=str(tmp_path / "a0"))  # fmt: skip
    assert made == {"value": None}
    server.publish("lab/alphanet_a0", tmp_path / "a0")
    cache = {"cache_dir": str(tmp_path / "cache")}
    ours = client(CREATE, name="alphanet_a0", arguments={"pretrained": True, **cache},
                  environment={"ALPHANET_HUB_ORG": "lab"})  # fmt: skip
    assert ours["value"][1:] == [{"images": 1, "batches": 1, "digest": "00"}, False, "alphanet_a0", 1000]
    given = client(CREATE, name="alphanet_a0", arguments={"weights": "lab/alphanet_a0", "num_classes": 7, **cache},
                   environment={})  # fmt: skip
    assert given["value"][3:] == ["alphanet_a0", 7]
    other = client(CREATE, name="alphanet_a1", arguments={"weights": "lab/alphanet_a0", **cache}, environment={})
    assert other["code"] == 1 and "alphanet_a0" in other["message"] and "alphanet_a1" in other["message"]


def test_push_makes_the_repository_and_what_it_holds_loads(server: HubServer, client: HubClient, folder: Path,
                                                           tmp_path: Path) -> None:  # fmt: skip
    push = """
import warnings
from alphanet_zoo import AlphaNet
warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)  # huggingface_hub's own, of its HTTP client
result = AlphaNet.from_pretrained(folder).push_to_hub("someone/pushed", token="hf_test_token", commit_message="first")
"""
    url = client(push, folder=str(folder))["value"]
    assert url == f"{server.url}/someone/pushed/commit/{server.refs['someone/pushed']['main']}"
    pushed = server.files("someone/pushed")
    assert sorted(pushed) == sorted(path.name for path in folder.iterdir())
    assert all(pushed[name] == (folder / name).read_bytes() for name in ("config.json", "model.safetensors"))
    assert b"hf-hub:someone/pushed" in pushed["README.md"]
    assert server.count("PUT") == 1
    assert client(push, folder=str(folder))["value"] == url, "pushing to a repository that exists"
    server.publish("someone/pushed", pushed | {"README.md": b"My card."})
    client(push, folder=str(folder))
    assert server.files("someone/pushed")["README.md"] == b"My card.", "a card in the repository is kept"
    loaded = client(LOAD, repo="someone/pushed", arguments={"cache_dir": str(tmp_path)})
    assert loaded["value"][2] == weights_sum(live_net())


def test_push_that_fails_names_the_repository(offline: HubClient, folder: Path) -> None:
    push = 'from alphanet_zoo import AlphaNet\nAlphaNet.from_pretrained(folder).push_to_hub("someone/pushed")'
    answer = offline(push, folder=str(folder))
    assert answer["code"] == 1 and "cannot upload to someone/pushed" in answer["message"]


@pytest.mark.slow  # huggingface_hub tries again for 23 seconds
def test_a_hub_out_of_reach_names_the_repository(tmp_path: Path) -> None:
    with HubServer() as gone:
        pass
    with HubClient(gone, tmp_path) as client:
        answer = client(LOAD, repo="someone/net", arguments={"cache_dir": str(tmp_path)})
    assert answer["code"] == 1 and "someone/net" in answer["message"]
    assert "the Hub cannot be reached" in answer["message"]
    assert "no local file or folder is called 'someone/net', so it is taken for a Hub repository" in answer["message"]
