"""Writes a frozen network to files, each first compared with the network: all files are written, or none."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from alphanet_export.build import Source
from alphanet_export.bundle import bundle_folder, bundle_moves
from alphanet_export.embedding import Embedding
from alphanet_export.formats import FORMATS, check_formats
from alphanet_export.freeze import FrozenNet
from alphanet_export.metadata import describe, export_facts, label_names, open_exported, write_sidecar
from alphanet_export.onnx_model import sealed
from alphanet_export.placing import Move, moves_of, place
from alphanet_export.verify.environment import current_environment
from alphanet_export.verify.measure.accuracy import BATCH, Accuracy, accuracy_of, answers_of_file
from alphanet_export.verify.measure.parity import (
    SYNTHETIC_IMAGES,
    Parity,
    allow_rounding,
    measure_parity,
    synthetic_images,
    synthetic_photographs,
    tolerance_of,
)
from alphanet_export.verify.report.figures import Data, Reference
from alphanet_export.verify.report.report import VerificationReport
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.evaluate.evaluator import Evaluator

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Written:
    """The files of an export.

    Args:
        sizes: Size in bytes of each file, or of all files in a folder.
        parities: Parity by format; empty if it was not measured.
        unrun: Formats of which only the structure was checked, because they do not run on this system.
        accuracies: Accuracy by format, if there were labelled images.
    """

    sizes: Mapping[Path, int]
    parities: Mapping[str, Parity] = field(default_factory=dict)
    unrun: tuple[str, ...] = ()
    accuracies: Mapping[str, Accuracy] = field(default_factory=dict)


def write_export(
    frozen: FrozenNet,
    source: Source | None = None,
    *,
    onnx: AnyPath | None = None,
    ort: AnyPath | None = None,
    openvino: AnyPath | None = None,
    executorch: AnyPath | None = None,
    coreml: AnyPath | None = None,
    pt2: AnyPath | None = None,
    aoti: AnyPath | None = None,
    safetensors: AnyPath | None = None,
    opset: int = 18,
    embed_preprocessing: bool = False,
    probabilities: bool = False,
    verify: bool = True,
    seed: int = 0,
    data: ImageSource | None = None,
    labels_by_position: bool = False,
    bundle: bool = False,
) -> Written:
    """Writes one file per format. Each is first run in its runtime; the structure of a Core ML file is only checked.

    A report with the parity is written beside each file that was run, see `alphanet_export.formats.Format.report_path`.

    Args:
        frozen: The result of `freeze`.
        source: Origin of the network, for the metadata. None: a network in memory.
        onnx: Path of the ONNX file; None to skip the format, as for all the others.
        ort: Path of ONNX Runtime's ``.ort`` file.
        openvino: Path of OpenVINO's ``.xml`` file; the weights go to the ``.bin`` file beside it.
        executorch: Path of ExecuTorch's ``.pte`` file.
        coreml: Path of Core ML's ``.mlpackage`` folder.
        pt2: Path of the ExportedProgram.
        aoti: Path of AOTInductor's ``.aoti.pt2`` package.
        safetensors: Path of the weights file, which `alphanet_zoo.create_model` loads.
        opset: Version of ONNX's standard operators.
        embed_preprocessing: Include the preprocessing in the graphs, which then take uint8 RGB images
            ``(1, H, W, 3)`` of any size.
        probabilities: The output is the softmax of the logits; requires ``embed_preprocessing``.
        verify: Measure parity before anything is written.
        seed: Seed of the synthetic images for parity.
        data: Labelled images to measure the accuracy of each file on; None measures none. Requires ``verify``.
        labels_by_position: Class i of ``data`` is output i of the network, whatever their names.
        bundle: Also write README.md, labels.txt, preprocessing.json and predict.py beside the files, which must be in
            one folder; see `alphanet_export.bundle`.

    Raises:
        ValueError: No path is given, the opset is not supported, a format does not support the frozen network, or the
            files of a bundle are in several folders.
        MissingDependencyError: A package that a format requires is missing.
        MissingProgramError: The compiler that a format requires is missing.
        ParityError: A file does not compute what the network computes; nothing is written.
        OSError: The disk is full or not writable; nothing is written.
    """
    asked = {
        "onnx": onnx, "ort": ort, "openvino": openvino, "executorch": executorch, "coreml": coreml, "pt2": pt2,
        "aoti": aoti, "safetensors": safetensors,
    }  # fmt: skip
    targets, embedding = checked_targets(frozen, asked, embed_preprocessing, probabilities, bundle=bundle)
    source = source or Source(frozen.net)
    metadata = describe(frozen, source, embedding)
    parities: dict[str, Parity] = {}
    accuracies: dict[str, Accuracy] = {}
    evaluator = None if data is None else Evaluator(data, batch_size=BATCH, labels_by_position=labels_by_position)
    if evaluator is not None:
        evaluator.outputs(frozen.net.num_classes, label_names(frozen.net))
    moves: list[Move] = []
    with tempfile.TemporaryDirectory(prefix="alphanet-export-") as folder:
        for name, target in targets.items():
            staged = FORMATS[name].path(Path(folder) / "model")
            _write(name, frozen, staged, metadata, opset, embedding)
            write_sidecar(FORMATS[name], staged, metadata)
            moves += moves_of(name, staged, target)
            if verify and (parity := _parity(name, frozen, staged, seed, embedding)) is not None:
                parities[name] = parity.check()
                if evaluator is not None:
                    accuracies[name] = accuracy_of(answers_of_file(open_exported(staged), evaluator))
                record = write_record(name, staged, target, parity, source, accuracies.get(name), data)
                moves.append((record, FORMATS[name].report_path(target)))
        if bundle:
            lines = [accuracy_line(name, each, data) for name, each in accuracies.items()]
            moves += bundle_of(Path(folder), targets, frozen, export_facts(frozen, source, embedding), lines)
        sizes = place(moves)
    unrun = tuple(name for name in targets if verify and name not in parities)
    return Written(sizes, parities, unrun, accuracies)


def checked_targets(
    frozen: FrozenNet,
    asked: Mapping[str, AnyPath | None],
    embed_preprocessing: bool,
    probabilities: bool,
    *,
    bundle: bool,
) -> tuple[dict[str, Path], Embedding | None]:
    """The paths that are asked for, and what their graphs include; arguments and errors as `write_export`."""
    targets = {name: Path(path) for name, path in asked.items() if path is not None}
    if not targets:
        raise ValueError(f"nothing to write; pass {' or '.join(asked)}")
    if probabilities and not embed_preprocessing:
        raise ValueError("probabilities requires embed_preprocessing")
    if bundle:
        bundle_folder(targets)
    check_formats(targets, dynamic_batch=frozen.dynamic_batch, resizes=frozen.resizes, embeds=embed_preprocessing)
    return targets, Embedding(frozen.preprocessing, probabilities) if embed_preprocessing else None


def bundle_of(
    staged: Path, targets: Mapping[str, Path], frozen: FrozenNet, metadata: Mapping[str, Any], lines: Sequence[str]
) -> list[Move]:
    """The bundle of an export; see `alphanet_export.bundle.bundle_moves`."""
    license = frozen.net.pretrained_cfg.get("license")
    return bundle_moves(
        staged, targets, metadata, dynamic_batch=frozen.dynamic_batch, license=license, accuracies=lines
    )


def accuracy_line(name: str, accuracy: Accuracy, data: ImageSource | None) -> str:
    """The accuracy of one format's file, for the README."""
    where = "" if data is None else f" on {Path(data.name).name}"
    return f"{FORMATS[name].title}: top-1 {accuracy.top1:.2f} % ({accuracy.correct} of {accuracy.images} images{where})"


def _write(
    name: str, frozen: FrozenNet, path: Path, metadata: Mapping[str, str], opset: int, embedding: Embedding | None
) -> None:
    """Writes one format. Only its own module, and the package that it requires, are imported."""
    match name:
        case "onnx" | "ort":
            from alphanet_export.writers.to_onnx import onnx_bytes

            write_onnx(name, onnx_bytes(frozen, metadata, opset=opset), path, embedding)
        case "openvino":
            from alphanet_export.writers.to_openvino import write_openvino

            write_openvino(frozen, path, metadata, embedding)
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
        case "safetensors":
            from alphanet_export.writers.to_safetensors import write_weights

            write_weights(frozen, path, metadata)
        case _:
            raise AssertionError(name)


def write_onnx(name: str, content: bytes, path: Path, embedding: Embedding | None) -> None:
    """Writes an ONNX file, float32 or int8, as the format ``name`` (onnx or ort), with its preprocessing if asked."""
    if embedding is not None:
        from alphanet_export.writers.preprocessing_graph import embed_in_onnx

        content = embed_in_onnx(content, embedding)
    if name == "ort":
        from alphanet_export.writers.to_ort import write_ort

        write_ort(content, path)
    else:
        path.write_bytes(sealed(content))


def _parity(name: str, frozen: FrozenNet, path: Path, seed: int, embedding: Embedding | None) -> Parity | None:
    """The parity of one file on synthetic images; None for Core ML, whose structure is checked instead."""
    if FORMATS[name].runs_here:
        images: Tensor | Iterable[Tensor]
        if embedding is None:
            images = synthetic_images(SYNTHETIC_IMAGES, frozen.preprocessing.input_size, seed)
        else:
            images = synthetic_photographs(frozen.preprocessing, seed)
        tolerance = tolerance_of(name, embedding)
        parity = measure_parity(path, frozen.net, images, synthetic=True, tolerance=tolerance, embedding=embedding)
        return allow_rounding(parity, frozen.net, images) if isinstance(images, Tensor) else parity
    from alphanet_export.writers.to_coreml import check_coreml

    check_coreml(path, frozen)
    return None


def write_record(
    name: str,
    staged: Path,
    target: Path,
    parity: Parity,
    source: Source,
    accuracy: Accuracy | None = None,
    data: ImageSource | None = None,
) -> Path:
    """Writes the report of a staged file beside it: its metadata, digest, parity and, if measured, accuracy.

    Args:
        name: The format, a key of `FORMATS`.
        staged: The file.
        target: Where the file will be moved to; the report names it.
        parity: Its parity with the network.
        source: Origin of the network.
        accuracy: Its accuracy on ``data``.
        data: The images of ``parity`` and ``accuracy``; None if they are synthetic.

    Returns:
        The path of the report.
    """
    model = dataclasses.replace(open_exported(staged), path=target)
    weights = model.metadata["weights_sha256"]
    report = VerificationReport(
        model=model,
        file_bytes=sum(file.stat().st_size for file in FORMATS[name].weight_files(staged)),
        data=Data(None if data is None else Path(data.name).name, parity.images, parity.synthetic),
        environment=current_environment(FORMATS[name]),
        reference=Reference(source.name, source.weights, weights, model.metadata["calibration"]),
        parity=parity,
        accuracy=accuracy,
    )
    record = FORMATS[name].report_path(staged)
    report.write(record)
    return record
