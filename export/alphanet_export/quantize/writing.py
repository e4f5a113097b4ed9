"""Writes int8 files of a frozen network, if they keep its accuracy."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphanet_export.build import Source
from alphanet_export.formats import FORMATS, INT8_LOG_ENDING
from alphanet_export.freeze import FrozenNet
from alphanet_export.metadata import describe, export_facts, open_onnx, write_sidecar
from alphanet_export.packages import require_package
from alphanet_export.placing import Move, moves_of, place
from alphanet_export.quantize.images import held_out, quant_images, spread
from alphanet_export.quantize.log import QuantizationLog
from alphanet_export.quantize.nncf_openvino import quantize_openvino, write_openvino_int8
from alphanet_export.quantize.onnx_qdq import quantize_onnx, with_metadata
from alphanet_export.runtimes.runtime import PREFIX
from alphanet_export.verify.measure.parity import SYNTHETIC_IMAGES, Parity, measure_parity, synthetic_images
from alphanet_export.write import bundle_of, checked_targets, write_onnx, write_record
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_export.writers.to_openvino import embed_in_openvino
from alphanet_zoo.data.batches import decoded_images
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.data.sources import spread as spread_source
from alphanet_zoo.errors import UsageError

PARITY_IMAGES = 64
"""Held-out images on which the parity of an int8 file is measured, by its signal-to-noise ratio."""


@dataclass(frozen=True)
class WrittenInt8:
    """The files written.

    Args:
        sizes: Size of each file in bytes.
        logs: How each format's file was made.
        parity: Parity of the float32 graph with PyTorch; None if not measured.
        parities: Parity of each int8 file with PyTorch, by its signal-to-noise ratio; empty if not measured.
    """

    sizes: Mapping[Path, int]
    logs: Mapping[str, QuantizationLog]
    parity: Parity | None
    parities: Mapping[str, Parity] = field(default_factory=dict)


def write_int8(
    frozen: FrozenNet,
    images: ImageSource,
    source: Source | None = None,
    *,
    onnx: str | os.PathLike[str] | None = None,
    ort: str | os.PathLike[str] | None = None,
    openvino: str | os.PathLike[str] | None = None,
    max_drop: float = 0.5,
    reduce_range: bool | None = None,
    opset: int = 18,
    embed_preprocessing: bool = False,
    probabilities: bool = False,
    verify: bool = True,
    seed: int = 0,
    labels_by_position: bool = False,
    bundle: bool = False,
) -> WrittenInt8:
    """Writes int8 files for ONNX Runtime (ONNX or ORT format), OpenVINO, or several of them.

    Beside each go its log, ``<file>.quantization.json``, and its report, see `alphanet_export.write.write_export`.

    Args:
        frozen: The network, from `alphanet_export.freeze.freeze`.
        images: Images for calibration and for judging; no image is used for both.
        source: Where the network comes from, for the metadata. None: from memory.
        onnx: Path of the ONNX file, if any.
        ort: Path of the ``.ort`` file, if any.
        openvino: Path of OpenVINO's ``.xml`` file, if any.
        max_drop: Points of top-1 that may be lost.
        reduce_range: Use 7 of the 8 bits of a weight. None: if this CPU needs it.
        opset: Version of the standard ONNX operators.
        embed_preprocessing: See `alphanet_export.write.write_export`.
        probabilities: See `alphanet_export.write.write_export`.
        verify: Measure the parity of the float32 graph first, and that of each int8 file on held-out images.
        seed: Seed of the random images used for that.
        labels_by_position: Class i of ``images`` is output i of the network, whatever their names.
        bundle: See `alphanet_export.write.write_export`.

    Raises:
        ValueError: No file is asked for, or ``probabilities`` without ``embed_preprocessing``.
        UsageError: There are too few images, only some of their classes are labels of the network, or ``max_drop`` is
            not from 0 to 100.
        MissingDependencyError: OpenVINO or NNCF is not installed.
        ParityError: The float32 graph does not compute what the network computes, or an int8 file is too noisy.
        AccuracyError: A file would lose more than ``max_drop``; nothing is written.
    """
    asked = {"onnx": onnx, "ort": ort, "openvino": openvino}
    targets, embedding = checked_targets(frozen, asked, embed_preprocessing, probabilities, bundle=bundle)
    if not 0 <= max_drop <= 100:
        raise UsageError(f"max_drop is {max_drop}; pass points of top-1, from 0 to 100")
    if "openvino" in targets:
        for package in ("openvino", "nncf"):
            require_package(package, "openvino")
    source = source or Source(frozen.net)
    metadata = describe(frozen, source, embedding)
    content = onnx_bytes(frozen, describe(frozen, source), opset=opset)
    logs: dict[str, QuantizationLog] = {}
    parities: dict[str, Parity] = {}
    int8: tuple[bytes, QuantizationLog] | None = None
    moves: list[Move] = []
    with tempfile.TemporaryDirectory(prefix="alphanet-int8-") as name:
        plain = Path(name) / "float.onnx"
        plain.write_bytes(content)
        parity = None
        if verify:
            random_images = synthetic_images(SYNTHETIC_IMAGES, frozen.preprocessing.input_size, seed)
            parity = measure_parity(plain, frozen.net, random_images, synthetic=True).check()
        parts = quant_images(open_onnx(plain), images, labels_by_position=labels_by_position)
        for each, target in targets.items():
            staged = FORMATS[each].path(Path(name) / "int8")
            if each == "openvino":
                model, log = quantize_openvino(frozen, parts, max_drop=max_drop, reduce_range=reduce_range)
                model = model if embedding is None else embed_in_openvino(model, embedding)
                write_openvino_int8(model, staged, entries := _with_summary(metadata, log))
            else:
                int8 = int8 or quantize_onnx(content, parts, max_drop=max_drop, reduce_range=reduce_range)
                log = int8[1]
                write_onnx(each, with_metadata(int8[0], entries := _with_summary(metadata, log)), staged, embedding)
            write_sidecar(FORMATS[each], staged, entries)
            record = Path(name) / f"{each}.json"
            record.write_text(json.dumps(log.to_dict(), indent=1, allow_nan=False) + "\n", "utf-8")
            moves += moves_of(each, staged, target)
            moves.append((record, target.with_name(target.name + INT8_LOG_ENDING)))
            if verify:
                shown = _decoded(images) if embedding else [torch.from_numpy(spread(parts.held_out, PARITY_IMAGES))]
                parities[each] = measure_parity(staged, frozen.net, shown, tolerance=None, embedding=embedding).check()
                report = write_record(each, staged, target, parities[each], source, data=images)
                moves.append((report, FORMATS[each].report_path(target)))
            logs[each] = log
        if bundle:
            described = {**export_facts(frozen, source, embedding), "quantization": {}}
            lines = [f"{FORMATS[each].title}: {log.notes()[0]}" for each, log in logs.items()]
            moves += bundle_of(Path(name), targets, frozen, described, lines)
        return WrittenInt8(place(moves), logs, parity, parities)


def _decoded(images: ImageSource) -> Iterator[Tensor]:
    """Held-out images as they were decoded, for files that include their preprocessing."""
    for image, _ in decoded_images(spread_source(held_out(images), PARITY_IMAGES)):
        yield image


def _with_summary(metadata: Mapping[str, str], log: QuantizationLog) -> dict[str, str]:
    """The float32 file's metadata with the summary of the log, and without the accuracy published for float32."""
    entries: dict[str, Any] = {"quantization": log.summary(), "published_top1": None}
    return {**metadata, **{PREFIX + key: json.dumps(value, sort_keys=True) for key, value in entries.items()}}
