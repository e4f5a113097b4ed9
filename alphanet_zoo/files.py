"""Atomic writing of files and folders, and digests of files."""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alphanet_zoo.errors import AlphaNetError, UsageError

LONGEST_NAME = 255
"""Bytes of a file name that file systems accept."""
_LONGEST_PART = 24
"""Characters of a name that a temporary name repeats, at up to 4 bytes each."""
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

MOST_YAML = 200_000
"""Bytes of the longest YAML file that is read: PyYAML needs seconds for larger ones. Recipes have about 2,000."""

FRONT_NAME = "front.json"
"""Name of the front in the folder of a search, and beside the weights that are published with it."""

EXPORTED_ENDINGS = (".onnx", ".ort", ".xml", ".pte", ".pt2")
"""Endings of exported files, which a runtime runs; they are not networks."""


def read_yaml(path: Path) -> object:
    """The values in a YAML file, read by the safe loader.

    Raises:
        UsageError: It cannot be read, has more than `MOST_YAML` bytes, or is not valid YAML.
    """
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(MOST_YAML + 1)
        if len(content) > MOST_YAML:
            raise UsageError(f"{path} has more than {MOST_YAML:,} bytes, too many for a YAML file of settings")
        return yaml.safe_load(content.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # A date such as 2001-99-99 is a ValueError.
        raise UsageError(f"{path} is not valid YAML: {error}") from None


def exported_in(folder: Path) -> Path | None:
    """The first exported file in a folder, in the order of names; None if there is none. Hidden files do not count."""
    names = (path for path in folder.iterdir() if not path.name.startswith("."))
    return min((path for path in names if path.name.lower().endswith(EXPORTED_ENDINGS)), default=None)


def refuse_url(text: str) -> None:
    """Raises UsageError for a URL where the path of an image is required."""
    if "://" in text and not os.path.exists(text):
        raise UsageError(f"{text} is a URL; download the image and pass the file")


def is_pattern(text: str) -> bool:
    """Whether a path has a character of patterns, such as ``*``."""
    return glob.has_magic(text)


def matching_paths(pattern: str) -> list[str]:
    """The paths that a pattern such as ``photos/**/*.jpg`` matches, in the order of their names."""
    return sorted(glob.glob(pattern, recursive=True)) if is_pattern(pattern) else []


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file for reading; a named pipe without a writer does not block.

    Raises:
        OSError: The file does not exist, or may not be read.
        AlphaNetError: It is a folder, device, pipe or socket.
    """
    file = open(path, "rb", opener=_open_without_waiting)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise AlphaNetError(f"cannot read {os.fspath(path)}: not a regular file")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file without waiting for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_writable(path: str | os.PathLike[str], *, folder: bool = False) -> None:
    """Checks that a file or folder can be created at ``path`` or replace what is there. Writes nothing.

    Args:
        path: The file or folder to write. Missing parent folders are allowed.
        folder: Whether ``path`` is a folder.

    Raises:
        UsageError: ``path`` exists and is of another kind, its name is too long, or it lies below a file, in a folder
            without write permission or on a drive that does not exist.
    """
    place = Path(path)
    if len(os.fsencode(place.name)) > LONGEST_NAME:
        raise UsageError(f"the name of {place} is longer than {LONGEST_NAME} bytes; pass a shorter name")
    _check_kind(place, folder=folder)
    real = Path(os.path.realpath(place))
    nearest = real if folder and real.is_dir() else next((parent for parent in real.parents if parent.exists()), None)
    if nearest is None:  # Windows
        raise UsageError(f"{place} lies on a drive that does not exist; pass another path")
    if not nearest.is_dir():
        raise UsageError(f"{place} lies below {nearest}, which is a file; pass another path")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{place} lies in {nearest}, which is not writable; pass another path")


def _check_kind(path: Path, *, folder: bool) -> None:
    """Raises a `UsageError` if ``path`` exists and is not a regular file (``folder``: not a folder)."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if folder and not stat.S_ISDIR(mode):
        raise UsageError(f"{path} is not a folder; pass the path of a folder")
    if not folder and stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder; pass the path of a file")
    if not folder and not stat.S_ISREG(mode):
        raise UsageError(f"{path} is a device, pipe or socket; pass the path of a regular file")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` and moves that file to ``path`` if the block succeeds.

    The file is flushed to disk and renamed when the block ends. If the block raises, the temporary file is removed
    and ``path`` is unchanged. Missing parent folders are created. If ``path`` is a symbolic link, the file that it
    points to is replaced.

    Raises:
        UsageError: ``path`` is a folder, device, pipe or socket.
        OSError: The file cannot be written; ``filename`` is ``path``, not the temporary file.
    """
    _check_kind(Path(path), folder=False)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _errors_naming(path):
        handle, name = tempfile.mkstemp(*_temporary_name(target), target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _errors_naming(path, temporary):
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            sync_file(temporary)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path`` and moves it to ``path`` if the block succeeds.

    An existing folder at ``path`` is replaced with all its contents. If the block raises, it is unchanged.

    Raises:
        UsageError: ``path`` exists and is not a folder.
        OSError: The folder cannot be written.
    """
    _check_kind(Path(path), folder=True)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _errors_naming(path):
        work = Path(tempfile.mkdtemp(*_temporary_name(target), target.parent))
    new, old = work / "new", work / "old"
    try:
        with _errors_naming(path, work):
            new.mkdir()
            yield new
            for file in (entry for entry in new.rglob("*") if entry.is_file()):
                sync_file(file)
            if target.exists():  # A rename does not replace a folder that is not empty.
                target.replace(old)
            try:
                new.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sync_folder(target.parent)


def _temporary_name(target: Path) -> tuple[str, str]:
    """Suffix and prefix of a temporary file for ``target``; the ending is kept, because some writers need it."""
    return f".tmp{target.suffix[:_LONGEST_PART]}", f".{target.stem[:_LONGEST_PART]}."


@contextmanager
def _errors_naming(path: str | os.PathLike[str], temporary: Path | None = None) -> Iterator[None]:
    """Makes errors about the temporary file, and disk errors without a file name, name the file asked for."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and os.strerror(errno.ENOSPC) in str(error):  # From shutil, or a library in C++ or Rust.
            number = errno.ENOSPC
        elif not isinstance(error, OSError) or not (temporary is None or _concerns(error, temporary)):
            raise
        raise OSError(number, os.strerror(number or 0), os.fspath(path)) from error


def _concerns(error: OSError, temporary: Path) -> bool:
    """Whether an error is about writing ``temporary`` (or a file in that folder)."""
    names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if any(name == temporary or temporary in name.parents for name in names):
        return True
    return not names and error.errno in _DISK_ERRORS


def sync_file(file: Path) -> None:
    """Flushes a file's content to disk."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk, if the system, its file system and permissions allow that.

    Raises:
        OSError: The disk is full or fails.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise
    finally:
        os.close(handle)
