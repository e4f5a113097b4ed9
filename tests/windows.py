"""Shows this package the standard library of Windows: no POSIX-only modules, attributes or behaviour.

Only the imports of this package are affected: its dependencies are builds for this system and use what it has.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable
from types import ModuleType
from typing import Any

POSIX_MODULES = frozenset(
    "_posixsubprocess crypt curses fcntl grp nis ossaudiodev posix pty pwd readline resource spwd syslog termios "
    "tty".split()
)
"""Modules that Python for Windows does not have."""
WINDOWS_OS = frozenset(
    "DirEntry F_OK O_APPEND O_CREAT O_EXCL O_RDONLY O_RDWR O_TRUNC O_WRONLY P_NOWAIT P_WAIT PathLike R_OK "
    "SEEK_CUR SEEK_END SEEK_SET TMP_MAX W_OK X_OK _exit abort access altsep chdir chmod close closerange "
    "cpu_count curdir defpath device_encoding devnull dup dup2 environ error execl execle execlp execlpe execv "
    "execve execvp execvpe extsep fdopen fsdecode fsencode fspath fstat fsync ftruncate get_exec_path "
    "get_inheritable get_terminal_size getcwd getcwdb getenv getlogin getpid getppid isatty kill linesep link "
    "listdir lseek lstat makedirs mkdir name open pardir path pathsep pipe popen putenv read readlink remove "
    "removedirs rename renames replace rmdir scandir sep set_inheritable spawnl spawnle spawnv spawnve stat "
    "stat_result strerror symlink system terminal_size times truncate umask unlink unsetenv urandom utime "
    "waitpid waitstatus_to_exitcode walk write".split()
)
"""Attributes of `os` that Python for Windows has too."""
WINDOWS_SIGNAL = frozenset(
    "Handlers NSIG SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN Signals default_int_handler getsignal "
    "raise_signal set_wakeup_fd signal strsignal valid_signals".split()
)
"""Attributes of `signal` that Python for Windows has too."""


def pretend() -> None:
    """Shows this package the modules of Windows, for the rest of this process."""
    shown = {"os": windows_os(), "signal": _only(signal, WINDOWS_SIGNAL), "msvcrt": windows_msvcrt()}
    original: Callable[..., Any] = builtins.__import__

    def importing(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if (globals or {}).get("__name__", "").startswith(("alphanet_zoo", "alphanet_export")):
            if name.partition(".")[0] in POSIX_MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in shown:
                return shown[name]
        return original(name, globals, locals, fromlist, level)

    builtins.__import__ = importing
    os.rename = _rename


def windows_os() -> ModuleType:
    """`os` of Windows, which does not open folders and flushes only files that are open for writing."""
    module = _only(os, WINDOWS_OS)

    def opened(path: Any, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return os.open(path, flags, mode)

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode) or fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.fsync(handle)

    vars(module).update(open=opened, fsync=fsync, rename=_rename)
    return module


def windows_msvcrt() -> ModuleType:
    """The part of `msvcrt` that locks files. A lock belongs to an open file, also within one process."""
    module = ModuleType("msvcrt")

    def locking(handle: int, mode: int, size: int) -> None:
        assert mode == 2 and size == 1
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from error

    vars(module).update(LK_NBLCK=2, locking=locking)
    return module


_posix_rename = os.rename


def _rename(source: Any, target: Any) -> None:
    """`os.rename` of Windows, which does not replace an existing file or folder."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    _posix_rename(source, target)


def _only(module: ModuleType, names: frozenset[str]) -> ModuleType:
    """A copy of a module with some of its attributes."""
    copy = ModuleType(module.__name__)
    vars(copy).update({name: getattr(module, name) for name in names})
    return copy
