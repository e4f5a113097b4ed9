"""Atomic writes and digests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from alphanet_zoo.files import replacing, replacing_folder, sha256_of


def test_written_wholly(tmp_path: Path) -> None:
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
