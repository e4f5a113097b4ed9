"""Ends a process while it writes: at a byte of a file, or before an operation on a file.

A byte: the kernel ends the process at the write that would make a file longer (RLIMIT_FSIZE, with SIGXFSZ as by
default). An operation: SIGKILL before the n-th operation on the files below a folder. No code of the package is
replaced.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}
"""Environment of a process that imports this module."""
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile", "shutil.rmtree")
BYTE, OPERATION = "byte", "operation"


def die(folder: Path, kind: str, number: int) -> Callable[[], int]:
    """Prepares the end of this process: `BYTE` number ``number`` of a file below ``folder``, or `OPERATION` ``number``.

    Args:
        folder: The folder. The limit of `BYTE` counts from the first operation in it.
        kind: `BYTE` or `OPERATION`.
        number: From 0 bytes, or from operation 1; 0 operations ends nothing.

    Returns:
        A function that returns the number of operations so far.
    """
    counted = 0
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal counted
        if event not in OPERATIONS or not any(_below(each, folder) for each in arguments):
            return
        counted += 1
        if kind == BYTE:
            resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        elif counted == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: counted


def _below(argument: object, folder: Path) -> bool:
    """Whether an argument of an operation is the path of something in ``folder``."""
    return isinstance(argument, str | bytes | os.PathLike) and os.fsdecode(argument).startswith(f"{folder}{os.sep}")


def in_child(action: Callable[[], object]) -> int:
    """Runs ``action`` in a fork of this process, which has no threads; returns its exit code (negative: signal)."""
    number = os.fork()
    if number == 0:
        code = 1
        try:
            code = int(action() or 0)  # type: ignore[call-overload]
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
