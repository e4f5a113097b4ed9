"""Writes int8 files of a frozen net: once they have been shown to keep its accuracy, or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx as onnx_package

from alphanet_export.build import Source
from alphanet_export.formats import FORMATS, INT8_LOG_ENDING
from alphanet_export.freeze import FrozenNet
from alphanet_export.metadata import describe, open_onnx, write_sidecar
from alphanet_export.packages import require_package
from alphanet_export.placing import Move, moves_of, place
from alphanet_export.quantize.images import QuantImages, quant_images
from alphanet_export.quantize.layers import find_layers
from alphanet_export.quantize.log import QuantizationLog
from alphanet_export.quantize.onnx_qdq import OnnxQdq
from alphanet_export.quantize.search import find_int8
from alphanet_export.quantize.toolchain import Toolchain
from alphanet_export.runtimes.runtime import PREFIX
from alphanet_export.verify.measure.parity import SYNTHETIC_IMAGES, Parity, measure_parity, synthetic_images
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.data.sources import ImageSource


@dataclass(frozen=True)
class WrittenInt8:
    """What was written.

    Args:
        sizes: Bytes of each file.
        logs: How each format's file was found.
        parity: Of the float32 graph that they were made from; None where it was not measured.
    """

    sizes: Mapping[Path, int]
    logs: Mapping[str, QuantizationLog]
    parity: Parity | None


def write_int8(
    frozen: FrozenNet,
    images: ImageSource,
    source: Source | None = None,
    *,
    onnx: str | os.PathLike[str] | None = None,
    openvino: str | os.PathLike[str] | None = None,
    max_drop: float = 0.5,
    reduce_range: bool | None = None,
    opset: int = 18,
    verify: bool = True,
    seed: int = 0,
    labels_by_position: bool = False,
) -> WrittenInt8:
    """Writes an int8 ONNX file, an int8 OpenVINO file, or both, and beside each the log of its search.

    Args:
        frozen: What `alphanet_export.freeze.freeze` made.
        images: Images to calibrate on and to judge by; the two parts share none.
        source: Where the net comes from, for the metadata. None: from memory.
        onnx: The ONNX file, if any.
        openvino: OpenVINO's ``.xml`` file, if any.
        max_drop: Points of top-1 that may be lost.
        reduce_range: Give weights 7 of 8 bits. None: where this CPU's kernels saturate with 8.
        opset: Version of ONNX's standard operators.
        verify: Measure the parity of the float32 graph first.
        seed: Of the images for that.
        labels_by_position: Class i of the images is output i of the net, whatever their names.

    Raises:
        ValueError: No file is asked for.
        UsageError: There are too few images, or only some of their classes are labels of the net.
        MissingDependencyError: OpenVINO or NNCF is not installed.
        ParityError: The float32 graph would not compute what the net computes.
        AccuracyError: A file would lose more than ``max_drop``. Nothing is written then.
    """
    targets = {name: Path(path) for name, path in (("onnx", onnx), ("openvino", openvino)) if path is not None}
    if not targets:
        raise ValueError("nothing to write; give onnx or openvino")
    if "openvino" in targets:
        for package in ("openvino", "nncf"):
            require_package(package, "openvino")
    metadata = describe(frozen, source or Source(frozen.net))
    content = onnx_bytes(frozen, metadata, opset=opset)
    logs: dict[str, QuantizationLog] = {}
    moves: list[Move] = []
    with tempfile.TemporaryDirectory(prefix="alphanet-int8-") as name:
        plain = Path(name) / "float.onnx"
        plain.write_bytes(content)
        parity = None
        if verify:
            made_up = synthetic_images(SYNTHETIC_IMAGES, frozen.preprocessing.input_size, seed)
            parity = measure_parity(plain, frozen.net, made_up, synthetic=True).check()
        parts = quant_images(open_onnx(plain), images, labels_by_position=labels_by_position)
        for each, target in targets.items():
            toolchain = _toolchain(each, frozen, content, parts, reduce_range)
            model, log = find_int8(toolchain, parts, max_drop=max_drop)
            staged = FORMATS[each].path(Path(name) / "int8")
            entries = _with_summary(metadata, log)
            toolchain.write(model, staged, entries)
            write_sidecar(FORMATS[each], staged, entries)
            record = Path(name) / f"{each}.json"
            record.write_text(json.dumps(log.to_dict(), indent=1, allow_nan=False) + "\n", "utf-8")
            moves += moves_of(each, staged, target)
            moves.append((record, target.with_name(target.name + INT8_LOG_ENDING)))
            logs[each] = log
        return WrittenInt8(place(moves), logs, parity)


def _toolchain(
    name: str, frozen: FrozenNet, content: bytes, images: QuantImages, reduce_range: bool | None
) -> Toolchain:
    """The toolchain of a format."""
    if name == "onnx":
        return OnnxQdq(content, images.calibration, reduce_range=reduce_range)
    from alphanet_export.quantize.nncf_openvino import NncfOpenVino

    layers = find_layers(onnx_package.load_model_from_string(content))
    return NncfOpenVino(frozen, layers, images.calibration, reduce_range=reduce_range)


def _with_summary(metadata: Mapping[str, str], log: QuantizationLog) -> dict[str, str]:
    """The float32 file's metadata with the search's summary, and without the accuracy published for float32."""
    entries: dict[str, Any] = {"quantization": log.summary(), "published_top1": None}
    return {**metadata, **{PREFIX + key: json.dumps(value, sort_keys=True) for key, value in entries.items()}}
