"""Writes a frozen net to files: all of them, once each has been shown to compute what the net computes, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from alphanet_export.freeze import FrozenNet
from alphanet_export.metadata import describe
from alphanet_export.parity import Parity, synthetic_images
from alphanet_export.source import Source
from alphanet_export.to_onnx import onnx_bytes, onnx_parity
from alphanet_export.to_pt2 import check_program, program_bytes
from alphanet_zoo.files import replacing

PARITY_IMAGES = 8
"""How many made-up images parity is measured on."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        sizes: Bytes of each file.
        parity: Of the ONNX file; None where there is none, or it was not measured.
        program_error: Largest relative error of the ``.pt2`` program; None likewise.
    """

    sizes: Mapping[Path, int]
    parity: Parity | None = None
    program_error: float | None = None


def write_export(
    frozen: FrozenNet,
    source: Source | None = None,
    *,
    onnx: str | os.PathLike[str] | None = None,
    pt2: str | os.PathLike[str] | None = None,
    opset: int = 18,
    verify: bool = True,
    seed: int = 0,
) -> Written:
    """Writes an ONNX file, a ``.pt2`` file, or both.

    Args:
        frozen: What `freeze` made.
        source: Where the net comes from, for the metadata. None: from memory.
        onnx: The ONNX file, if any.
        pt2: The file of the ExportedProgram, if any.
        opset: Version of ONNX's standard operators.
        verify: Measure parity before anything is written.
        seed: Of the images that parity is measured on.

    Raises:
        ValueError: Neither file is asked for, or the opset is not supported.
        ParityError: A file would not compute what the net computes; nothing is written.
        OSError: The disk is full or not writable; nothing is written.
    """
    if onnx is None and pt2 is None:
        raise ValueError("nothing to write; give onnx or pt2")
    metadata = describe(frozen, source or Source(frozen.net))
    images = synthetic_images(PARITY_IMAGES, frozen.preprocessing.input_size, seed) if verify else None
    contents: dict[Path, bytes] = {}
    parity = program_error = None
    if onnx is not None:
        contents[Path(onnx)] = content = onnx_bytes(frozen, metadata, opset=opset)
        if images is not None:
            parity = onnx_parity(content, frozen, images, synthetic=True).check()
    if pt2 is not None:
        contents[Path(pt2)] = content = program_bytes(frozen, metadata)
        if images is not None:
            program_error = check_program(content, frozen, images)
    _write_together(contents)
    return Written({path: len(content) for path, content in contents.items()}, parity, program_error)


def _write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes every file under a temporary name before any takes its place."""
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(replacing(path)).write_bytes(content)
