import http.server
import io
import sys
import tarfile
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.batches import TrainingBatches
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.images import decode_image
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.shards import ShardSource, webdataset_safely
from alphanet_zoo.data.sources import open_source
from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, MissingProgramError, UsageError


def encoded(seed, form="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Two shards of five and four samples, in the ways that people write them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    first = [
        (f"x/{i:04d}.{end}", body) for i in range(5) for end, body in (("cls", b"%d\n" % (i % 3)), ("jpg", encoded(i)))
    ]
    second = [
        (f"{i:04d}.{end}", body) for i in range(4) for end, body in (("PNG", encoded(9 + i, "PNG")), ("cls", b"2"))
    ]
    write_shard(folder / "train-0.tar", [("readme", b""), *first])
    write_shard(folder / "train-1.tar", [*second, ("0009.json", b"{}")])
    return folder


def test_shards_are_samples_by_index(shards):
    source = ShardSource(str(shards), "train-{0..1}.tar")
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 2, 2] and source.classes == ["0", "1", "2"]
    for index, seed in ((4, 4), (0, 0), (8, 12)):
        content = encoded(seed, "JPEG" if index < 5 else "PNG")
        assert torch.equal(source.load(index), decode_image(content, "x"))


def test_webdataset_reads_the_same_samples_in_the_same_order(shards):
    import webdataset.tariterators as tars

    source = ShardSource(str(shards), "train-{0..1}.tar")
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in sorted(shards.iterdir())]
        streams = ({"url": file.name, "stream": file} for file in files)
        samples = [s for s in tars.group_by_keys(tars.tar_file_expander(streams)) if "cls" in s]
    assert len(samples) == len(source.labels)
    for index, sample in enumerate(samples):
        content = sample.get("jpg") or sample["png"]
        assert int(sample["cls"]) == source.labels[index]
        assert torch.equal(source.load(index), decode_image(content, "x"))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_batches_from_shards_are_the_same_for_any_number_of_workers(shards):
    def batches(workers):
        config = DataConfig(
            root=str(shards), source="webdataset", train="train-{0..1}.tar", transform="imagenet", autoaugment=True,
            image_size=16, batch_size=4, workers=workers,
        )  # fmt: skip
        return list(TrainingBatches(config, Preprocessing(16, 18, "bicubic", (0,) * 3, (1,) * 3), 0).stream(1, 5))

    for one, other in zip(batches(0), batches(2), strict=True):
        assert one.indices == other.indices and torch.equal(one.images, other.images)


@pytest.fixture
def server(shards):
    """The shards behind an address of this machine; gives it and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(shards))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_shards_of_an_address_are_fetched_once_and_give_the_same(shards, server, tmp_path):
    address, asked = server
    cache = tmp_path / "cache"
    local = ShardSource(str(shards), "train-{0..1}.tar")
    for _ in range(2):
        source = ShardSource(address, "train-{0..1}.tar", cache=str(cache))
        assert torch.equal(source.labels, local.labels) and torch.equal(source.load(7), local.load(7))
    assert sorted(asked) == ["/train-0.tar", "/train-1.tar"]
    assert len(list(cache.glob("*.tar"))) == 2


def test_what_cannot_be_fetched_leaves_nothing(shards, server, tmp_path, capfd):
    address, _ = server
    (shards / "cut.tar").write_bytes((shards / "train-0.tar").read_bytes()[:1500])
    for name in ("none.tar", "cut.tar"):
        with pytest.raises(AlphaNetError, match=rf"cannot download the shard {address}/{name}"):
            ShardSource(address, name, cache=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob("*.tar"))


def test_without_the_program_that_fetches_it_says_so(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError, match="curl, which downloads .*, is not installed"):
        ShardSource(server[0], "train-0.tar", cache=str(tmp_path / "cache"))


@pytest.mark.parametrize("address", ["pipe:touch harm; cat", "pipe://touch harm", "file:///tmp", "ftp://x"])
def test_addresses_that_run_or_read_other_things_are_refused(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not a URL of a shard|no such shard"):
        ShardSource(address, "x.tar", cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="unsafe_gopen"):
        webdataset_safely().gopen("pipe:touch harm", "rb")
    assert not (tmp_path / "harm").exists()


def test_wrong_shards_are_refused(shards, tmp_path):
    with pytest.raises(UsageError, match="no such shard"):
        ShardSource(str(shards), "train-{0..2}.tar")
    with pytest.raises(UsageError, match="data.cache"):
        ShardSource("https://localhost/x", "train.tar")
    write_shard(shards / "empty.tar", [("a.txt", b"")])
    with pytest.raises(UsageError, match="contains no samples"):
        ShardSource(str(shards), "empty.tar")
    write_shard(shards / "classless.tar", [("a.jpg", encoded(0))])
    with pytest.raises(AlphaNetError, match=r"classless\.tar: its sample a has no class"):
        ShardSource(str(shards), "classless.tar")
    write_shard(shards / "imageless.tar", [("a.heic", b"?"), ("a.cls", b"1")])
    with pytest.raises(AlphaNetError, match=r"imageless\.tar: its sample a has a class but no image"):
        ShardSource(str(shards), "imageless.tar")
    (shards / "noise.tar").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(AlphaNetError, match=r"cannot read the shard .*noise\.tar"):
        ShardSource(str(shards), "noise.tar")


def test_hidden_and_system_names_in_a_shard_are_skipped_as_in_folders(shards):
    others = [(name, b"?") for name in ("__MACOSX/b.jpg", "._c.jpg", ".x/d.jpg")]
    write_shard(shards / "mac.tar", [("./a.jpg", encoded(0)), ("./a.cls", b"0"), *others])
    source = ShardSource(str(shards), "mac.tar")
    assert len(source) == 1 and torch.equal(source.load(0), decode_image(encoded(0), "x"))


def test_a_broken_image_in_a_shard_is_named(shards):
    write_shard(shards / "broken.tar", [("a.jpg", encoded(0)[:100]), ("a.cls", b"0")])
    with pytest.raises(AlphaNetError, match=r"cannot read the image .*broken\.tar \(at byte 512\)"):
        ShardSource(str(shards), "broken.tar").load(0)


def test_without_webdataset_it_says_how_to_get_it(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(MissingDependencyError, match=r"alphanet-zoo\[train\]"):
        open_source(DataConfig(root=str(shards), source="webdataset", image_size=8, batch_size=1))
