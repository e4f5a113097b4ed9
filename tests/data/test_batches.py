import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data import reader
from alphanet_zoo.data.batches import TrainingBatches, evaluation_batches
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.images import read_image
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError, UsageError

PLAIN = Preprocessing(16, 18, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MEANT = Preprocessing(16, 18, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
VARIED = {
    "affine": {"rotate_degrees": 10, "shift": 0.1, "zoom": 0.1},
    "imagenet": {"transform": "imagenet", "autoaugment": True},
    "cifar": {"transform": "cifar", "autoaugment": True},
}
# Python 3.12 and later warn of a fork beside threads, which torch always has.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def write_images(folder, count):
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / "train" / "ab"[index % 2] / f"{index:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("folder"), 22)


def batches_of(root, seed=0, preprocessing=PLAIN, rank=0, world_size=1, **settings):
    config = DataConfig(**{"root": str(root), "image_size": 16, "batch_size": 6} | settings)
    return TrainingBatches(config, preprocessing, seed, rank=rank, world_size=world_size)


def same(one, other):
    return (one.epoch, one.indices) == (other.epoch, other.indices) and all(
        torch.equal(a, b) for a, b in ((one.images, other.images), (one.labels, other.labels))
    )


def test_an_epoch_shows_each_image_at_most_once_in_whole_batches(root):
    batches = batches_of(root)
    assert batches.steps_per_epoch == 3 and batches.classes == ["a", "b"]
    for epoch in (0, 1):
        seen = [batches.batch(step) for step in range(3 * epoch, 3 * epoch + 3)]
        indices = [index for batch in seen for index in batch.indices]
        assert len(set(indices)) == 18 and {batch.epoch for batch in seen} == {epoch}
        for batch in seen:
            assert batch.images.shape == (6, 3, 16, 16) and batch.images.dtype == torch.float32
            assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", VARIED)
def test_any_number_of_workers_gives_the_same_bits_from_any_step(root, name):
    direct = batches_of(root, **VARIED[name])
    expected = [direct.batch(step) for step in range(8)]
    assert not torch.equal(expected[0].images, batches_of(root, seed=1, **VARIED[name]).batch(0).images)
    for workers, start in ((0, 0), (1, 4), (2, 1)):
        before = torch.get_rng_state()
        with closing(batches_of(root, workers=workers, **VARIED[name]).stream(start, 8)) as stream:
            found = list(stream)
        assert len(found) == 8 - start and all(same(*pair) for pair in zip(found, expected[start:], strict=True))
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["affine", "cifar"])
def test_keeping_images_in_memory_changes_nothing(root, name, monkeypatch):
    kept = batches_of(root, **VARIED[name])
    monkeypatch.setattr(reader, "MEMORY_LIMIT", 22 * 3 * 16**2 - 1)
    read = batches_of(root, **VARIED[name])
    assert all(same(kept.batch(step), read.batch(step)) for step in (0, 4))


def test_an_image_is_varied_by_epoch_and_index_whatever_its_place_in_a_batch(root):
    def by_key(batch_size):
        batches = batches_of(root, batch_size=batch_size, **VARIED["imagenet"])
        found = {}
        for step in range(2 * batches.steps_per_epoch):
            batch = batches.batch(step)
            found |= {(batch.epoch, index): image for index, image in zip(batch.indices, batch.images, strict=True)}
        return found

    fives, elevens = by_key(5), by_key(11)
    shared = set(fives) & set(elevens)
    assert len(shared) > 30 and all(torch.equal(fives[key], elevens[key]) for key in shared)
    twice = [index for epoch, index in fives if epoch == 0 and (1, index) in fives]
    assert not any(torch.equal(fives[0, index], fives[1, index]) for index in twice)


@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batch_that_one_would_have(root, name, world_size):
    whole = batches_of(root, **VARIED[name]).batch(4)
    shares = [batches_of(root, rank=rank, world_size=world_size, **VARIED[name]) for rank in range(world_size)]
    for part, share in zip(whole.split(world_size), shares, strict=True):
        own = share.batch(4)
        assert share.steps_per_epoch == 3 and part.indices == own.indices
        assert torch.equal(part.labels, own.labels)
        torch.testing.assert_close(part.images, own.images, rtol=0, atol=1e-6 if name == "affine" else 0)


def test_a_batch_splits_only_evenly(root):
    whole = batches_of(root).batch(0)
    assert [len(part.indices) for part in whole.split(3)] == [2, 2, 2]
    assert torch.equal(torch.cat([part.images for part in whole.split(3)]), whole.images)
    with pytest.raises(ValueError, match="6 images cannot be divided into 4 equal parts"):
        whole.split(4)


def test_labels_and_pixels_are_those_of_the_files(root):
    batch = batches_of(root, preprocessing=MEANT).batch(2)
    folder = FolderSource(root / "train")
    for index, image, label in zip(batch.indices, batch.images, batch.labels, strict=True):
        assert label == folder.labels[index]
        torch.testing.assert_close(image, MEANT(read_image(folder.path(index))), rtol=0, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("transform", ["imagenet", "cifar"])
def test_one_broken_image_is_replaced_logged_and_counted(tmp_path, workers, transform, caplog):
    folder = FolderSource(write_images(tmp_path, 12) / "train")
    whole = [batches_of(tmp_path, transform=transform).batch(step) for step in range(6)]
    path = folder.path(3)
    path.write_bytes(path.read_bytes()[:50])
    batches = batches_of(tmp_path, transform=transform, workers=workers)
    with caplog.at_level(logging.WARNING), closing(batches.stream(0, 6)) as stream:
        found = list(stream)
    assert list(batches.broken.messages) == [3] and path.name in batches.broken.messages[3]
    assert [path.name in record.getMessage() for record in caplog.records] == [True]
    assert all(torch.isfinite(batch.images).all() for batch in found)
    for before, after in zip(whole, found, strict=True):
        assert before.indices == after.indices
        for i, index in enumerate(before.indices):
            assert torch.equal(before.images[i], after.images[i]) == (index != 3)
            assert index == 3 or before.labels[i] == after.labels[i]
    again = batches_of(tmp_path, transform=transform)
    assert all(same(batch, again.batch(step)) for step, batch in enumerate(found))


@pytest.mark.parametrize("workers", [0, 1])
def test_more_broken_images_stop_the_run_and_are_listed(tmp_path, workers):
    folder = FolderSource(write_images(tmp_path, 12) / "train")
    for index in (3, 7):
        folder.path(index).write_bytes(b"")
    names = ".*".join(folder.path(index).name for index in (3, 7))
    with (
        pytest.raises(AlphaNetError, match=rf"2 of the 12 images in .* are broken, and 1 or 0.01% .*{names}"),
        closing(batches_of(tmp_path, transform="imagenet", workers=workers).stream(0, 2)) as stream,
    ):
        list(stream)


@pytest.mark.parametrize("workers", [0, 1])
def test_where_all_are_broken_there_is_no_substitute(tmp_path, workers):
    folder = FolderSource(write_images(tmp_path, 2) / "train")
    for index in range(len(folder)):
        folder.path(index).write_bytes(b"")
    stream = batches_of(tmp_path, batch_size=1, transform="imagenet", workers=workers).stream(0, 1)
    with closing(stream), pytest.raises(AlphaNetError, match=r"cannot read the image .*\.jpg.*16 others"):
        next(stream)


def test_wrong_folders_and_batches_are_refused(root, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        batches_of(tmp_path / "none")
    with pytest.raises(
        UsageError, match=r"22 images, fewer than data.batch_size 23; use more images, .* data.batch_size=16$"
    ):
        batches_of(root, batch_size=23)
    with pytest.raises(UsageError, match="data.batch_size is 6.*multiple of their 4"):
        batches_of(root, world_size=4)


def test_the_evaluation_sees_every_image_once_over_all_processes(root):
    source = FolderSource(root / "train")
    whole = list(evaluation_batches(source, MEANT, 8))
    assert [len(labels) for _, labels in whole] == [8, 8, 6]
    expected = torch.stack([MEANT(source.load(index)) for index in range(22)])
    assert torch.equal(torch.cat([part for _, part in whole]), source.labels)
    assert torch.equal(torch.cat([images for images, _ in whole]), expected)
    second = torch.cat([images for images, _ in evaluation_batches(source, MEANT, 8, rank=1, world_size=3)])
    assert torch.equal(second, expected[1::3])
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(evaluation_batches(source, MEANT, 0))


def test_one_broken_validation_image_is_left_out_and_named(tmp_path, caplog):
    folder = FolderSource(write_images(tmp_path, 6) / "train")
    whole = list(evaluation_batches(folder, PLAIN, 2))
    folder.path(4).write_bytes(b"")
    found = list(evaluation_batches(folder, PLAIN, 2))
    assert [len(labels) for _, labels in found] == [2, 2, 1]
    expected = torch.cat([images for images, _ in whole])[[0, 1, 2, 3, 5]]
    assert torch.equal(torch.cat([images for images, _ in found]), expected)
    assert torch.equal(torch.cat([labels for _, labels in found]), folder.labels[[0, 1, 2, 3, 5]])
    (warning,) = [record.getMessage() for record in caplog.records]
    assert str(folder.path(4)) in warning and "left out" in warning
    folder.path(1).write_bytes(b"")
    with pytest.raises(AlphaNetError, match="2 of the 6 images"):
        list(evaluation_batches(folder, PLAIN, 2))


def test_a_source_without_a_whole_image_is_an_error(tmp_path):
    folder = FolderSource(write_images(tmp_path, 1) / "train")
    folder.path(0).write_bytes(b"")
    with pytest.raises(AlphaNetError, match=folder.path(0).name):
        list(evaluation_batches(folder, PLAIN, 2))


@pytest.mark.parametrize("settings", [{}, {"engine": "device"}, {"transform": "imagenet"}])
def test_full_shared_memory_costs_time_and_changes_nothing(root, settings, monkeypatch, caplog):
    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    expected = batches_of(root, **settings)
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # Workers are forked, so they have it too.
    with caplog.at_level(logging.WARNING), closing(batches_of(root, workers=2, **settings).stream(0, 4)) as stream:
        found = list(stream)
    assert all(same(batch, expected.batch(step)) for step, batch in enumerate(found)) and len(found) == 4
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in found)
    assert [record.getMessage().count("--shm-size") for record in caplog.records] == [1]


def workers_of(process):
    """Ids of the processes that it started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in children.split()]


def ended(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_workers_outlive_sigterm_unless_their_main_process_is_dead(root):
    script = (
        "import sys\nfrom tests.data.test_batches import batches_of\n"
        "stream = batches_of(sys.argv[1], workers=2).stream(0, 10**6)\n"
        "next(stream)\nprint('ready', flush=True)\nsys.stdin.readline()\nnext(stream)\nprint('more', flush=True)\n"
        "sys.stdin.readline()"
    )
    command = [sys.executable, "-c", script, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        workers = workers_of(process)
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "more\n" and not any(ended(worker) for worker in workers)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while not all(ended(worker) for worker in workers) and time.monotonic() < deadline:
            for worker in workers:
                if not ended(worker):
                    os.kill(worker, signal.SIGTERM)
            time.sleep(0.1)
        assert all(ended(worker) for worker in workers)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("with worker_errors():\n    workers[0].kill()\n    while True: next(stream)", "a data worker died"),
        ("raise ValueError('any error')", "ValueError: any error"),
    ],
)
def test_a_process_with_data_workers_ends_after_an_error(root, end, error):
    """One of two workers is killed, or another error ends the process; live workers ignore SIGTERM."""
    script = (
        "import multiprocessing, sys\nfrom alphanet_zoo.data.batches import worker_errors\n"
        "from tests.data.test_batches import batches_of\n"
        "stream = batches_of(sys.argv[1], workers=2).stream(0, 10**6)\nnext(stream)\n"
        "workers = multiprocessing.active_children()\n"
        f"{end}"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and error in done.stderr.splitlines()[-1]


def test_dali_without_its_package_says_how_to_get_it(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali.plugin.pytorch", None)
    batches = batches_of(root, transform="imagenet", engine="dali")
    with pytest.raises(ImportError, match=r"alphanet-zoo\[dali\]"):
        next(batches.stream(0, 1))
