"""Locks between processes, on POSIX systems and on Windows. The system releases them when a process ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_OPEN: set[int] = set()
"""Descriptors of the locks of this process. A forked child closes them, or it would keep a lock of a dead parent."""
_POLL_SECONDS = 0.2
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""Error numbers of a lock that another process has taken: EAGAIN from ``flock``, the others from ``msvcrt.locking``."""

_HANDLES: dict[str, int] = {}
"""Files whose bytes this process locks, and their handles."""


@contextmanager
def locked_file(path: Path, *, wait: bool) -> Iterator[None]:
    """Locks a file during the block, and creates it if it does not exist.

    File systems without locks are not protected.

    Args:
        path: The file. It is not removed afterwards.
        wait: Whether to wait for another process that has locked it.

    Raises:
        BlockingIOError: Another process has locked it, and ``wait`` is false.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with _closing(handle):
        _lock(handle, wait=wait)
        yield


@contextmanager
def locked_byte(path: Path, place: int, *, wait: bool) -> Iterator[None]:
    """Locks one byte of a file during the block, and creates the file if it does not exist; it stays empty.

    The lock is against other processes, not against other threads of this one.

    Args:
        path: The file. The bytes of one file are independent locks.
        place: Position of the byte.
        wait: Whether to wait for another process that has locked it.

    Raises:
        BlockingIOError: Another process has locked it, and ``wait`` is false.
    """
    handle = _byte_handle(os.path.abspath(path))
    while True:
        try:
            _lock_byte(handle, place)
            break
        except OSError as error:
            if error.errno not in _HELD:
                break
            if not wait:
                raise BlockingIOError(error.errno, error.strerror) from error
        time.sleep(_POLL_SECONDS / 20)
    try:
        yield
    finally:
        with suppress(OSError):
            _lock_byte(handle, place, unlock=True)


def _byte_handle(path: str) -> int:
    """The open file at an absolute path. It stays open: closing it would release all of a process's locks in it."""
    handle = _HANDLES.get(path)
    if handle is not None and os.path.exists(path):
        return handle
    if handle is not None:  # The file was removed.
        os.close(handle)
    _HANDLES[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return _HANDLES[path]


def _lock_byte(handle: int, place: int, *, unlock: bool = False) -> None:
    """Locks or unlocks one byte of an open file."""
    if fcntl is not None:
        fcntl.lockf(handle, fcntl.LOCK_UN if unlock else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        return
    import msvcrt

    os.lseek(handle, place, os.SEEK_SET)
    msvcrt.locking(handle, msvcrt.LK_UNLCK if unlock else msvcrt.LK_NBLCK, 1)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Locks an existing folder during the block; on Windows, which cannot lock folders, its file ``.lock``.

    File systems without locks are not protected.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    if fcntl is None:
        file = folder / ".lock"
        try:
            with locked_file(file, wait=False):
                yield
        finally:
            with suppress(OSError):  # Windows does not remove a file that another process has opened.
                file.unlink(missing_ok=True)
        return
    handle = os.open(folder, os.O_RDONLY)
    with _closing(handle):
        _lock(handle, wait=False)
        yield


@contextmanager
def _closing(handle: int) -> Iterator[None]:
    """Closes a descriptor after the block; forked children close it at once."""
    _OPEN.add(handle)
    try:
        yield
    finally:
        if handle in _OPEN:
            _OPEN.discard(handle)
            os.close(handle)


def _close_in_child() -> None:
    """Closes the locks of the parent process; it keeps them."""
    for handle in _OPEN:
        with suppress(OSError):
            os.close(handle)
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _lock(handle: int, *, wait: bool) -> None:
    """Locks an open file; closing it releases the lock."""
    while True:
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                import msvcrt

                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            return
        except OSError as error:
            if error.errno not in _HELD:
                return
            if not wait:
                raise BlockingIOError(error.errno, error.strerror) from error
        time.sleep(_POLL_SECONDS)
