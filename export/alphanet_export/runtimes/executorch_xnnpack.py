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
from alphanet_export.runtimes.interface import FloatArray, Runtime
from alphanet_zoo.errors import AlphaNetError, UsageError

METADATA_METHOD = "alphanet_metadata"
"""A constant method of the file that gives its ``alphanet.*`` entries, as one JSON object."""


class ExecuTorch(Runtime):
    """What ``alphanet-export --format executorch`` wrote.

    Args:
        path: The ``.pte`` file.
        threads: As `Runtime`. ExecuTorch has one pool of threads a process, to which every loaded file holds on, so
            files that are open at the same time have the same number.
        precision: As `Runtime`.

    Raises:
        UsageError: A file is open with another number of threads.
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
                    self.metadata = json.loads(text)
            except Exception as error:  # Its errors are RuntimeErrors with a number; the reason is in its log.
                raise AlphaNetError(f"ExecuTorch cannot load {path}: {error} {log()}; export it again") from error
        self.batch, self.input_size = int(sizes[0]), int(sizes[2])
        self._engine = method
        _OPEN.add(self)

    def close(self) -> None:
        """Lets go of the method, then of the program it belongs to."""
        super().close()
        _OPEN.discard(self)
        self._program = None

    def _run(self, images: FloatArray) -> FloatArray:
        """Runs the method; its output lies in the program's memory, so it is copied."""
        (logits,) = self._engine.execute([torch.from_numpy(images)])
        copy: FloatArray = logits.float().numpy().copy()
        return copy


_OPEN: WeakSet[ExecuTorch] = WeakSet()
"""The files that are open, which hold on to the pool."""


def _set_threads(library: Any, threads: int) -> None:
    """Gives the process's pool that many threads; a new pool must not take the place of one that a file holds on to."""
    current = library._threadpool_get_thread_count()
    if current == threads:
        return
    if _OPEN:
        raise UsageError(
            f"ExecuTorch has one pool of threads a process, with {current} while {next(iter(_OPEN)).label} is open; "
            f"close that first, or give threads={current}"
        )
    library._unsafe_reset_threadpool(threads)


@contextmanager
def _log() -> Iterator[Callable[[], str]]:
    """Keeps what ExecuTorch's C++ prints on standard error from the terminal; gives a function that tells it."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)

        def told() -> str:
            file.seek(0)
            return " ".join(file.read().decode("utf-8", "replace").split())

        try:
            yield told
        finally:
            os.dup2(kept, 2)
            os.close(kept)
