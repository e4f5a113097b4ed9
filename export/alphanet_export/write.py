"""Writes a frozen net to files: all of them, once each has been shown to compute what the net computes, or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from alphanet_export.build import Source
from alphanet_export.formats import FORMATS, check_formats
from alphanet_export.freeze import FrozenNet
from alphanet_export.metadata import describe
from alphanet_export.placing import moves_of, place
from alphanet_export.runtimes.opening import open_runtime
from alphanet_export.verify.measure.parity import SYNTHETIC_IMAGES, Parity, measure_parity, synthetic_images
from alphanet_export.verify.measure.runtime_parity import measure_runtime_parity

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        sizes: Bytes of each file, or of all in a folder.
        parities: Of each format that runs here, by its name; empty where parity was not measured.
        unrun: The formats of which only the structure was checked.
    """

    sizes: Mapping[Path, int]
    parities: Mapping[str, Parity] = field(default_factory=dict)
    unrun: tuple[str, ...] = ()


def write_export(
    frozen: FrozenNet,
    source: Source | None = None,
    *,
    onnx: AnyPath | None = None,
    openvino: AnyPath | None = None,
    executorch: AnyPath | None = None,
    coreml: AnyPath | None = None,
    pt2: AnyPath | None = None,
    aoti: AnyPath | None = None,
    opset: int = 18,
    verify: bool = True,
    seed: int = 0,
) -> Written:
    """Writes one file a format, each first checked in its real runtime (Core ML, which has none here, by structure).

    Args:
        frozen: What `freeze` made.
        source: Where the net comes from, for the metadata. None: from memory.
        onnx: The ONNX file, if any.
        openvino: OpenVINO's ``.xml`` file, if any; the weights go to the ``.bin`` beside it.
        executorch: ExecuTorch's ``.pte`` file, if any.
        coreml: Core ML's ``.mlpackage`` folder, if any.
        pt2: The file of the ExportedProgram, if any.
        aoti: AOTInductor's ``.aoti.pt2`` package, if any.
        opset: Version of ONNX's standard operators.
        verify: Measure parity before anything is written.
        seed: Of the images that parity is measured on.

    Raises:
        ValueError: No file is asked for, the opset is not supported, or a format cannot take the net as it is frozen.
        MissingDependencyError: A package that a format needs is missing.
        MissingProgramError: The compiler that a format needs is missing.
        ParityError: A file would not compute what the net computes; nothing is written.
        OSError: The disk is full or not writable; nothing is written.
    """
    asked = {"onnx": onnx, "openvino": openvino, "executorch": executorch, "coreml": coreml, "pt2": pt2, "aoti": aoti}
    targets = {name: Path(path) for name, path in asked.items() if path is not None}
    if not targets:
        raise ValueError(f"nothing to write; give {' or '.join(asked)}")
    check_formats(targets, dynamic_batch=frozen.dynamic_batch, resizes=frozen.resizes)
    metadata = describe(frozen, source or Source(frozen.net))
    images = synthetic_images(SYNTHETIC_IMAGES, frozen.preprocessing.input_size, seed) if verify else None
    parities: dict[str, Parity] = {}
    with tempfile.TemporaryDirectory(prefix="alphanet-export-") as folder:
        staged = {name: FORMATS[name].path(Path(folder) / "model") for name in targets}
        for name, path in staged.items():
            _write(name, frozen, path, metadata, opset)
            if images is not None:
                parities |= _checked(name, frozen, path, images)
        sizes = place(move for name in targets for move in moves_of(name, staged[name], targets[name]))
    return Written(sizes, parities, tuple(name for name in targets if verify and name not in parities))


def _write(name: str, frozen: FrozenNet, path: Path, metadata: Mapping[str, str], opset: int) -> None:
    """Writes one format; its module, and the package it needs, are loaded for that alone."""
    match name:
        case "onnx":
            from alphanet_export.writers.to_onnx import onnx_bytes

            path.write_bytes(onnx_bytes(frozen, metadata, opset=opset))
        case "openvino":
            from alphanet_export.writers.to_openvino import write_openvino

            write_openvino(frozen, path, metadata)
        case "executorch":
            from alphanet_export.writers.to_executorch import write_executorch

            write_executorch(frozen, path, metadata)
        case "coreml":
            from alphanet_export.writers.to_coreml import write_coreml

            write_coreml(frozen, path, metadata)
        case "pt2":
            from alphanet_export.writers.to_pt2 import write_program

            write_program(frozen, path, metadata)
        case "aoti":
            from alphanet_export.writers.to_aoti import write_aoti

            write_aoti(frozen, path, metadata)
        case _:
            raise AssertionError(name)


def _checked(name: str, frozen: FrozenNet, path: Path, images: Tensor) -> dict[str, Parity]:
    """The parity of one format, by its name; nothing for Core ML, whose structure is checked instead."""
    if name == "onnx":
        return {name: measure_parity(path, frozen.net, images, synthetic=True).check()}
    if not FORMATS[name].runs_here:
        from alphanet_export.writers.to_coreml import check_coreml

        check_coreml(path, frozen)
        return {}
    with open_runtime(path) as runtime:
        return {name: measure_runtime_parity(runtime, frozen.net, images, synthetic=True).check()}
