"""ExecuTorch with its XNNPACK backend."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch

from alphanet_export.packages import require_package
from alphanet_export.quiet import quiet
from alphanet_export.runtimes.runtime import FloatArray, Runtime, alphanet_entries
from alphanet_zoo.errors import AlphaNetError, UsageError

METADATA_METHOD = "alphanet_metadata"
"""A constant method of the file that returns its ``alphanet.*`` entries, as one JSON object."""


class ExecuTorch(Runtime):
    """A ``.pte`` file for the XNNPACK backend.

    Args:
        path: The file.
        threads: See `Runtime`. ExecuTorch has one thread pool per process, which every open file uses, so all files
            that are open at the same time must have the same number.
        precision: See `Runtime`.

    Raises:
        UsageError: Another file is open with a different number of threads.
        MissingDependencyError: ExecuTorch is not installed.
        AlphaNetError: The file cannot be read.
    """

    name, title = "executorch", "ExecuTorch"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, precision: str = "fp32") -> None:
        """Loads the file."""
        super().__init__(str(path), threads, precision)
        require_package("executorch", "executorch")
        with quiet():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime as Engine

        with _log() as log:
            _set_threads(portable_lib, self.threads)
            try:
                self._program = Engine.get().load_program(os.fspath(path))
                method = self._program.load_method("forward")
                sizes = method.metadata.input_tensor_meta(0).sizes()
                if METADATA_METHOD in self._program.method_names:
                    (text,) = self._program.load_method(METADATA_METHOD).execute([])
                    self.metadata = alphanet_entries(json.loads(text))
            except Exception as error:  # Its RuntimeErrors have only a number; the reason is in its log.
                raise AlphaNetError(f"ExecuTorch cannot load {path}: {error} {log()}; export it again") from error
        self.batch, self.input_size = int(sizes[0]), int(sizes[2])
        self._engine = method
        _OPEN.add(self)

    def close(self) -> None:
        """Releases the method, then the program that it belongs to."""
        super().close()
        _OPEN.discard(self)
        self._program = None

    def _run(self, images: FloatArray) -> FloatArray:
        """Runs the method and copies its output, which is in the program's memory."""
        (logits,) = self._engine.execute([torch.from_numpy(images)])
        copy: FloatArray = logits.float().numpy().copy()
        return copy


_OPEN: WeakSet[ExecuTorch] = WeakSet()
"""The open files, which use the thread pool."""


def _set_threads(library: Any, threads: int) -> None:
    """Sets the size of the process's thread pool, which must not be replaced while a file uses it."""
    current = library._threadpool_get_thread_count()
    if current == threads:
        return
    if _OPEN:
        raise UsageError(
            f"ExecuTorch has one thread pool per process, with {current} threads while {next(iter(_OPEN)).label} is "
            f"open; close that first, or pass threads={current}"
        )
    library._unsafe_reset_threadpool(threads)


@contextmanager
def _log() -> Iterator[Callable[[], str]]:
    """Captures what ExecuTorch's C++ code writes to standard error; yields a function that returns it."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)

        def captured() -> str:
            file.seek(0)
            return " ".join(file.read().decode("utf-8", "replace").split())

        try:
            yield captured
        finally:
            os.dup2(kept, 2)
            os.close(kept)
