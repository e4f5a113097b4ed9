"""From a frozen net to an AOTInductor package: machine code for the processor it is made on."""

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

    The metadata is what ``get_metadata()`` of the loaded package gives. The code takes its number of threads from
    PyTorch when it runs.

    Raises:
        MissingProgramError: There is no C++ compiler.
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
