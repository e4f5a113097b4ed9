"""F24: pickles that hang or end their reader."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.zoo.convert import load_upstream

_DOUBLING = b")q\0" + b"".join(bytes([104, i, 104, i, 0x86, 113, i + 1]) for i in range(40))
"""A tuple of two references to the one before, 40 times."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x02ccollections\nOrderedDict\n" + _DOUBLING + b"\x85R.",
        b"\x80\x02cutils.config\nConfig\n" + _DOUBLING + b"\x85R.",
        b"\x80\x02})" + b"\x85" * 3_000_000 + b"K\x01s.",
    ],
    ids=["doubling argument", "doubling foreign argument", "nested key"],
)
def test_a_pickle_that_hangs_or_kills_its_reader_is_an_error(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "x.pth.tar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(AlphaNetError, match="is not a readable checkpoint") as caught:
        load_upstream(path)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
