"""Compiles `loops.cpp` for this machine and loads it.

The file includes no header of torch, so that it compiles in seconds; a file that registers an operator through torch's
headers took seven times as long with `torch.utils.cpp_extension.load` (41.3 against 5.9 s on two loaded cores). The
library is therefore called through ctypes, and the operators are registered from Python. It is kept in the folder in
which torch keeps compiled extensions.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError, MissingProgramError

_SOURCE = Path(__file__).with_name("loops.cpp")


class Library:
    """The loops, loaded into this process."""

    def __init__(self, path: Path) -> None:
        """Loads the shared library at ``path``."""
        self._library = ctypes.CDLL(str(path))

    def call(self, name: str, *arguments: Tensor | int) -> None:
        """Calls a loop with pointers to tensors, integers, and torch's number of threads."""
        function = getattr(self._library, name)
        function.restype = None
        given = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_long(a) for a in arguments]
        function(*given, ctypes.c_int(torch.get_num_threads()))


@cache
def load() -> Library:
    """The loops; the first call compiles them unless an earlier process on this machine has.

    Raises:
        MissingProgramError: There is no C++ compiler.
        AlphaNetError: Compilation failed, or its folder cannot be written.
    """
    return Library(build())


def build() -> Path:
    """Compiles the loops with ``$CXX``, by default ``c++``, unless the library exists; returns its path.

    The folder is ``$TORCH_EXTENSIONS_DIR``, by default ``torch_extensions`` in the user's cache folder. The file's name
    contains a digest of the source and the command, so that another version never uses it.

    Raises:
        MissingProgramError: There is no such compiler.
        AlphaNetError: Compilation failed, or the folder cannot be written.
    """
    compiler = os.environ.get("CXX", "c++")
    program = shutil.which(compiler)
    if program is None:
        raise MissingProgramError(
            f"C++ compiler {compiler!r} not found; install one (Debian: apt-get install g++), name it in CXX, "
            "or use kernels=torch"
        )
    avx = ["-mavx2", "-mfma"] if torch.backends.cpu.get_cpu_capability().startswith("AVX") else []
    command = [program, "-std=c++17", "-O3", *avx, "-fopenmp", "-shared", "-fPIC", str(_SOURCE), "-o"]
    digest = hashlib.sha256(_SOURCE.read_bytes() + repr(command).encode()).hexdigest()[:16]
    folder = _folder()
    library = folder / f"alphanet_loops_{digest}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                made = Path(temporary) / library.name
                _compile([*command, str(made)], compiler)
                os.replace(made, library)
        except OSError as error:
            raise AlphaNetError(
                f"cannot write compiled kernels to {folder} ({error.strerror}); set TORCH_EXTENSIONS_DIR to a folder "
                "that can be written, or use kernels=torch"
            ) from error
    return library


def _compile(command: list[str], compiler: str) -> None:
    """Runs the compiler."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[0]
        raise AlphaNetError(f"{compiler} cannot compile {_SOURCE.name} ({reason}); use kernels=torch")


def _folder() -> Path:
    """Where torch keeps compiled extensions (importing its module for that alone prints a warning without CUDA)."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(cache_home) / "torch_extensions"
