"""Atomic writes and digests."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import check_writable, replacing, replacing_folder, sha256_of


def test_a_file_is_written_completely(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.bin"
    with replacing(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".bin" and not target.exists()
        temporary.write_bytes(b"weights")
    assert target.read_bytes() == b"weights"
    assert os.listdir(target.parent) == ["model.bin"]
    assert sha256_of(target) == hashlib.sha256(b"weights").hexdigest()


def test_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half way"), replacing(target) as temporary:
        temporary.write_bytes(b"new")
        raise RuntimeError("half way")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.touch()
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "net.mlpackage"
    for content in ("first", "second"):
        with replacing_folder(target) as temporary:
            (temporary / content).mkdir()
            (temporary / content / "file").write_text(content)
        assert [path.name for path in target.iterdir()] == [content] and os.listdir(target.parent) == [target.name]
    with pytest.raises(RuntimeError, match="half way"), replacing_folder(target) as temporary:
        (temporary / "third").touch()
        raise RuntimeError("half way")
    assert (target / "second" / "file").read_text() == "second" and os.listdir(target.parent) == [target.name]


def test_only_regular_files_and_folders_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name, words in (("folder", "is a folder"), ("pipe", "device, pipe or socket"), ("null", "device, pipe")):
        for check in (lambda path: check_writable(path), lambda path: replacing(path).__enter__()):
            with pytest.raises(UsageError, match=f"{name} is a .*{words.removeprefix('is a ')}"):
                check(tmp_path / name)
    for check in (lambda path: check_writable(path, folder=True), lambda path: replacing_folder(path).__enter__()):
        with pytest.raises(UsageError, match="file is not a folder"):
            check(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "null", "pipe"]


def test_a_link_stays_a_link_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name, content in (("file", "old"), ("missing", None)):
        target, link = tmp_path / "real" / name, tmp_path / name
        link.symlink_to(target)
        if content is not None:
            target.write_text(content)
        check_writable(link)
        with replacing(link) as temporary:
            temporary.write_text("new")
        assert link.is_symlink() and not target.is_symlink() and target.read_text() == "new"
    assert sorted(os.listdir(tmp_path / "real")) == ["file", "missing"]


def test_what_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_writable(tmp_path / "new" / "deep" / "x.json")
    check_writable(tmp_path / "file")
    check_writable(tmp_path, folder=True)
    check_writable(tmp_path / "new" / "folder", folder=True)
    for path, words in ((tmp_path / "file" / "x" / "y", "which is a file"), (tmp_path / ("é" * 128), "255 bytes")):
        with pytest.raises(UsageError, match=words):
            check_writable(path)
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        for folder in (False, True):
            with pytest.raises(UsageError, match="locked, which is not writable"):
                check_writable(tmp_path / "locked" / "x", folder=folder)


@pytest.mark.parametrize("name", ["x" * 251 + ".pt2", "é" * 127, "x." + "y" * 253])
def test_the_longest_name_can_be_written(name: str, tmp_path: Path) -> None:
    check_writable(tmp_path / name)
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "whole"


FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        OSError(errno.ENOSPC, FULL, "staged.bin", None, "{temporary}"),
        OSError(errno.EROFS, os.strerror(errno.EROFS), "{temporary}"),
        shutil.Error([("a", "b", f"[Errno {errno.ENOSPC}] {FULL}")]),
        RuntimeError(f"I/O error: {FULL} (os error {errno.ENOSPC})"),
    ],
    ids=repr,
)
def test_a_disk_error_names_the_file_asked_for(error: Exception, tmp_path: Path) -> None:
    for context in (replacing, replacing_folder):
        target = tmp_path / context.__name__
        with pytest.raises(OSError, match="No space|Read-only") as caught, context(target) as temporary:
            if isinstance(error, OSError) and "{temporary}" in (error.filename, error.filename2):
                raise OSError(error.errno, error.strerror, "staged.bin", None, str(temporary))
            raise error
        assert caught.value.filename == str(target) and caught.value.__cause__ is not None
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, replacing(tmp_path / "x"):
        open(tmp_path / "none" / "input")
    assert caught.value.filename == str(tmp_path / "none" / "input")
    with pytest.raises(RuntimeError, match="^half way$"), replacing(tmp_path / "x"):
        raise RuntimeError("half way")
    with pytest.raises(OSError) as caught, replacing(tmp_path / "outer"), replacing(tmp_path / "inner"):
        raise OSError(errno.ENOSPC, FULL)
    assert caught.value.filename == str(tmp_path / "inner") and not list(tmp_path.iterdir())
