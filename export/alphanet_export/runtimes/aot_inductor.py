"""AOTInductor: a traced graph compiled ahead of time to machine code, in a ``.pt2`` package."""

from __future__ import annotations

import json
import os

import torch

from alphanet_export.quiet import quiet
from alphanet_export.runtimes.interface import only_ours
from alphanet_export.runtimes.torch_runtime import TorchRuntime, torch_threads
from alphanet_zoo.errors import AlphaNetError

INPUT_SHAPE = "alphanet.input_shape"
"""An entry that this format alone needs: its input, ``[1 or null, 3, S, S]``, which the machine code does not tell."""


class AotInductor(TorchRuntime):
    """What ``alphanet-export --format aoti`` wrote. It holds machine code: open only what you trust.

    Args:
        path: The ``.aoti.pt2`` package.
        threads: As `Runtime`.
        precision: As `Runtime`.

    Raises:
        AlphaNetError: It cannot be read, or was compiled for another kind of machine.
    """

    name, title = "aot-inductor", "AOTInductor"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, precision: str = "fp32") -> None:
        """Loads the package."""
        super().__init__(str(path), threads, precision)
        try:
            with torch_threads(self.threads), quiet():
                engine = torch._inductor.aoti_load_package(os.fspath(path))
            entries = dict(engine.get_metadata())
            self.batch, _, self.input_size, _ = json.loads(entries.pop(INPUT_SHAPE))
        except Exception as error:  # A damaged archive, a foreign one, one of another processor: many kinds.
            raise AlphaNetError(
                f"PyTorch {torch.__version__} cannot load {path}: {error}; export it again, on the kind of machine "
                "that it is to run on"
            ) from error
        self.metadata = only_ours(entries)
        self._engine = engine
