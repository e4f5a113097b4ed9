"""F24: pickles that run code, or that hang or end their reader."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.zoo.convert import load_upstream


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def called(module: str, name: str, *arguments: str) -> bytes:
    """A pickle that calls a function with texts."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(map(text, arguments)) + b"tR."


def in_state(body: bytes) -> bytes:
    """A pickle as the value of 'state_dict'."""
    return b"\x80\x02}" + text("state_dict") + body.removeprefix(b"\x80\x02")[:-1] + b"s."


def in_tensors(body: bytes) -> bytes:
    """A pickle in the place of a tensor."""
    return b"\x80\x02}" + text("state_dict") + b"}" + text("module.a") + body.removeprefix(b"\x80\x02")[:-1] + b"ss."


def attacks(mark: str) -> dict[str, bytes]:
    """Pickles that would create the file ``mark``, by name."""
    touch, code = f"touch {mark}", f"open({mark!r}, 'w')"
    calls: dict[str, bytes] = {
        "os.system": called("os", "system", touch),
        "posix.system": called("posix", "system", touch),
        "nt.system": called("nt", "system", touch),
        "os.popen": called("os", "popen", touch),
        "os.open": b"\x80\x02cos\nopen\n(" + text(mark) + b"KAtR.",
        "os.mkdir": called("os", "mkdir", mark),
        "subprocess.getoutput": called("subprocess", "getoutput", touch),
        "subprocess.Popen": b"\x80\x02csubprocess\nPopen\n((" + text("touch") + text(mark) + b"ltR.",
        "eval": called("builtins", "eval", code),
        "exec": called("builtins", "exec", code),
        "eval of Python 2": called("__builtin__", "eval", code),
        "compile": called("builtins", "compile", code, "x", "exec"),
        "open": called("builtins", "open", mark, "w"),
        "io.open": called("io", "open", mark, "w"),
        "pty.spawn": called("pty", "spawn", touch),
        "timeit": called("timeit", "timeit", code),
        "cProfile.run": called("cProfile", "run", code),
        "runpy": called("runpy", "run_path", mark),
        "importlib": called("importlib", "import_module", "antigravity"),
        "torch.hub": called("torch.hub", "load", "a/b", "c"),
        "torch.load": called("torch", "load", mark),
        "torch.jit.load": called("torch.jit", "load", mark),
        "numpy exec_command": called("numpy.testing._private.utils", "runstring", code, "{}"),
        "attrgetter": called("operator", "attrgetter", "system.__call__"),
        "pathlib": b"\x80\x04"
        + text("pathlib")
        + text("Path.touch")
        + b"\x93cpathlib\nPath\n"
        + text(mark)
        + b"\x85R\x85R.",
        "shutil": called("shutil", "copyfile", __file__, mark),
        "dotted name": b"\x80\x04" + text("torch") + text("os.system") + b"\x93" + text(touch) + b"\x85R.",
        "INST": b"(" + text(touch) + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text(touch) + b"o.",
        "BUILD": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("__class__") + b"cos\nsystem\nsb.",
    }
    wrapped: list[Callable[[bytes], bytes]] = [bytes, in_state, in_tensors]
    return {
        name: body if name in ("INST", "OBJ", "dotted name", "pathlib", "BUILD") else wrapped[number % 3](body)
        for number, (name, body) in enumerate(calls.items())
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_malicious_pickles_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as the pickle itself or in a zip archive, as torch.save writes it."""
    monkeypatch.chdir(tmp_path)
    mark, path = tmp_path / "ran", tmp_path / "x.pth.tar"
    found = attacks(str(mark))
    assert len(found) == 30
    for number, (name, body) in enumerate(found.items()):
        if number % 2:
            path.write_bytes(body)
        else:
            archived(path, body)
        with pytest.raises(AlphaNetError) as caught:
            load_upstream(path)
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value), name
        assert "not run" in str(caught.value) or "is not a readable checkpoint" in str(caught.value), name
        assert "weights_only" not in str(caught.value), name
        assert not mark.exists(), name
        assert [each.name for each in tmp_path.iterdir()] == [path.name], name


def test_the_pickles_would_run_without_care(tmp_path: Path) -> None:
    """Python's own reader runs them, so that the test above can fail."""
    mark = tmp_path / "ran"
    for name in ("os.system", "posix.system", "os.mkdir", "pathlib", "INST", "OBJ", "dotted name"):
        pickle.loads(attacks(str(mark))[name])
        assert mark.exists(), name
        mark.rmdir() if mark.is_dir() else mark.unlink()


def archived(path: Path, body: bytes) -> None:
    """A file of ``torch.save`` with a pickle of one's own."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


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
    archived(path, body)
    with pytest.raises(AlphaNetError, match="is not a readable checkpoint") as caught:
        load_upstream(path)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
