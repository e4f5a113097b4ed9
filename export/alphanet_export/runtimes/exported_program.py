"""PyTorch's ExportedProgram: a traced graph in a ``.pt2`` file, run operator by operator."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from alphanet_export.runtimes.torch_runtime import TorchRuntime, extra_files
from alphanet_zoo.errors import AlphaNetError


class Program(TorchRuntime):
    """What ``alphanet-export --format pt2`` wrote.

    Args:
        path: The ``.pt2`` file.
        threads: As `Runtime`.
        precision: As `Runtime`.

    Raises:
        AlphaNetError: It cannot be read.
    """

    name, title = "exported-program", "the ExportedProgram"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, precision: str = "fp32") -> None:
        """Loads the file."""
        super().__init__(str(path), threads, precision)
        try:
            program = torch.export.load(path)
            self.metadata = extra_files(Path(path))
            (name,) = program.graph_signature.user_inputs
            shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)
            self._engine = program.module()
        except Exception as error:  # A damaged archive fails in many ways.
            raise AlphaNetError(f"PyTorch {torch.__version__} cannot load {path}: {error}; export it again") from error
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self.input_size = int(shape[2])
