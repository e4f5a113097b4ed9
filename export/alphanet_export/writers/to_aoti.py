"""Writes a frozen network as an AOTInductor package: machine code for the CPU that it is compiled on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from alphanet_export.freeze import FrozenNet
from alphanet_export.packages import require_compiler
from alphanet_export.quiet import quiet
from alphanet_export.runtimes.torch_runtimes import INPUT_SHAPE


def write_aoti(frozen: FrozenNet, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes an ``.aoti.pt2`` package, which ``torch._inductor.aoti_load_package`` reads.

    ``get_metadata()`` of the loaded package returns the metadata. The code uses PyTorch's number of threads.

    Raises:
        MissingProgramError: No C++ compiler is installed.
    """
    require_compiler()
    size = frozen.preprocessing.input_size
    shape = json.dumps([None if frozen.dynamic_batch else 1, 3, size, size])
    configs = {
        "cpp.dynamic_threads": True,
        "aot_inductor.metadata": {**(metadata or {}), INPUT_SHAPE: shape},
    }
    with quiet():
        torch._inductor.aoti_compile_and_package(frozen.program, package_path=str(path), inductor_configs=configs)
