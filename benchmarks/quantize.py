"""Compares int8 files with float32, and our int8 search for ONNX Runtime with NNCF's accuracy control.

Takes the smallest subnet of a trained supernet, the largest, and some between, evenly spread over the MACs. Calibrates
each, exports it in float32, and quantises it on the same training images in three ways: for ONNX Runtime with our
search and with NNCF, for OpenVINO with NNCF. Prints for each file the drop in top-1 on images that took no part (with a
paired 95 % interval), the layers left in float, the size, the CPU time that quantisation took, and the time of one
image as a ratio to float32. All files of a runtime are timed in turns in one process, on one thread, by CPU time. The
last lines compare the two int8 files for ONNX Runtime with each other.

Run: ``python benchmarks/quantize.py --supernet runs/demo/training --data runs/demo/data --eval test``
(``--random MODEL ...`` compares times and sizes of models of the zoo with random weights, every layer int8.)
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from alphanet_export.build import Source
from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.metadata import describe, open_onnx
from alphanet_export.onnx_model import INPUT_NAME, FloatArray, open_session, run_logits
from alphanet_export.quantize.images import QuantImages, quant_images
from alphanet_export.quantize.judge import judge
from alphanet_export.quantize.nncf_openvino import openvino_runner, quantize_openvino, write_openvino_int8
from alphanet_export.quantize.onnx_qdq import quantize_onnx, saturates
from alphanet_export.quiet import quiet
from alphanet_export.verify.environment import cpu_name
from alphanet_export.verify.measure.ab import CPU_TIME, interleave
from alphanet_export.verify.measure.parity import synthetic_images
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_export.writers.to_openvino import openvino_model
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.calibration import calibration_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import spread
from alphanet_zoo.errors import AccuracyError
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.evaluate.statistics import median_ratio_interval
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.open import open_net
from alphanet_zoo.zoo.registry import create_model

os.environ["NNCF_CI"] = "1"  # Otherwise NNCF reports its use over the network.

SEARCH, NNCF, FLOAT = "search", "NNCF", "float32"
TIMING_ROUNDS = 200
WEIGHTED = ("Conv", "Gemm", "MatMul", "Convolution", "GroupConvolution")

Runner = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Runtime:
    """How a runtime is used.

    Args:
        title: Its name.
        ways: What quantises, by the name of the way; each returns a model.
        runner: From a model to what computes logits on one thread.
        plain: The float32 model.
        describe: (Layers in float, all layers, bytes of the files) of an int8 model.
    """

    title: str
    ways: Mapping[str, Callable[[], Any]]
    runner: Callable[[Any], Runner]
    plain: Any
    describe: Callable[[Any], tuple[int, int, int]]


def onnx_runtime(content: bytes, images: QuantImages, max_drop: float) -> Runtime:
    """ONNX Runtime; a model is the content of an ONNX file."""

    def described(model: bytes) -> tuple[int, int, int]:
        graph = onnx.load_model_from_string(model).graph
        integer = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        weighted = [node.input[:2] for node in graph.node if node.op_type in WEIGHTED]
        return sum(not integer.issuperset(inputs) for inputs in weighted), len(weighted), len(model)

    ways = {
        SEARCH: lambda: quantize_onnx(content, images, max_drop=max_drop, time_it=False)[0],
        NNCF: lambda: nncf_onnx(content, images, max_drop),
    }
    return Runtime("ONNX Runtime", ways, lambda model: partial(run_logits, open_session(model, "all", 1)), content,
                   described)  # fmt: skip


def openvino_runtime(frozen: FrozenNet, images: QuantImages, max_drop: float) -> Runtime:
    """OpenVINO; a model is an ``openvino.Model``."""

    def described(model: Any) -> tuple[int, int, int]:
        nodes = [op for op in model.get_ops() if op.get_type_name() in WEIGHTED]
        constants = [
            op for op in model.get_ops() if op.get_type_name() == "Constant" and len(op.get_output_shape(0)) > 1
        ]
        integer = sum(op.get_element_type().get_type_name() in ("i8", "u8") for op in constants)
        with tempfile.TemporaryDirectory() as name:
            write_openvino_int8(model.clone(), Path(name) / "int8.xml", {})
            return len(nodes) - integer, len(nodes), sum(path.stat().st_size for path in Path(name).iterdir())

    ways = {NNCF: lambda: quantize_openvino(frozen, images, max_drop=max_drop, time_it=False)[0]}
    return Runtime("OpenVINO", ways, lambda model: openvino_runner(model, 1), openvino_model(frozen), described)


def nncf_onnx(content: bytes, images: QuantImages, max_drop: float) -> bytes:
    """``nncf.quantize_with_accuracy_control`` with the images, the metric and the allowed drop of our search.

    NNCF's fast bias correction is used: the accurate one of NNCF 3.4 fails on these graphs.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    assert images.classes is not None

    def top1(model: onnx.ModelProto, items: Any) -> tuple[float, list[float]]:
        session = open_session(model.SerializeToString())
        right = [float(session.run(None, {INPUT_NAME: image[None]})[0].argmax() == index) for image, index in items]
        return float(np.mean(right)), right

    pairs = list(zip(images.held_out, images.classes, strict=True))
    with quiet():
        model = nncf.quantize_with_accuracy_control(
            onnx.load_model_from_string(content),
            nncf.Dataset([{INPUT_NAME: image[None]} for image in images.calibration]),
            nncf.Dataset(pairs, lambda pair: {INPUT_NAME: pair[0][None]}),
            top1,
            max_drop=max_drop / 100,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images.calibration),
            advanced_quantization_parameters=AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.ENABLE if saturates() else OverflowFix.DISABLE,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
    return bytes(model.SerializeToString())


def compare(macs: float, runtime: Runtime, pixels: FloatArray, classes: Any, max_drop: float) -> list[str]:
    """Prints a row for each way; returns the comparison of our search with NNCF, if both ran."""
    runs = {FLOAT: runtime.runner(runtime.plain)}
    logits = {FLOAT: runs[FLOAT](pixels)}
    cells: dict[str, str] = {}
    for way, quantize in runtime.ways.items():
        began = time.process_time()
        try:
            model = quantize()
        except AccuracyError as error:
            print(f"| {macs:.2f} | {runtime.title} | {way} | {error} |", flush=True)
            continue
        spent = time.process_time() - began
        in_float, layers, size = runtime.describe(model)
        runs[way] = runtime.runner(model)
        logits[way] = runs[way](pixels)
        cells[way] = f"{in_float} of {layers} | {size / 1e3:.0f} | {spent:.0f}"
        if classes is not None:
            verdict = judge(logits[FLOAT], logits[way], classes, max_drop)
            low, high = verdict.drop_interval
            cells[way] = f"{verdict.float_top1:.2f} | {verdict.drop:.2f} ({low:.2f} to {high:.2f}) | {cells[way]}"
    timed = {name: partial(run, pixels[:1]) for name, run in runs.items()}
    times = interleave(timed, rounds=TIMING_ROUNDS, seconds=3.0, clock=CPU_TIME)

    def ratio(name: str, other: str) -> str:
        low, high = median_ratio_interval(times[name], times[other])
        return f"{np.median(times[name]) / np.median(times[other]):.3f} ({low:.3f} to {high:.3f})"

    for way, text in cells.items():
        print(f"| {macs:.2f} | {runtime.title} | {way} | {text} | {ratio(way, FLOAT)} |", flush=True)
    if len(cells) < 2:
        return []
    text = f"{macs:.2f} M MACs, search against NNCF: time {ratio(SEARCH, NNCF)}"
    if classes is None:
        return [text]
    verdict = judge(logits[NNCF], logits[SEARCH], classes, max_drop)
    low, high = (-end for end in reversed(verdict.drop_interval))
    return [f"{text}, top-1 {-verdict.drop:+.2f} points ({low:.2f} to {high:.2f})"]


def spread_archs(space: SearchSpace, count: int, num_classes: int, seed: int = 0) -> list[ArchSpec]:
    """The smallest and the largest arch, and random ones nearest to equal steps of MACs between."""
    rng = np.random.default_rng(seed)
    sampled = [space.sample(rng) for _ in range(500)]
    costs = np.array([count_macs(arch, space, num_classes) for arch in sampled])
    low, high = (count_macs(arch, space, num_classes) for arch in (space.smallest, space.largest))
    steps = np.linspace(low, high, count)[1:-1]
    return [space.smallest, *(sampled[int(np.abs(costs - step).argmin())] for step in steps), space.largest]


def measure(frozen: FrozenNet, args: argparse.Namespace) -> list[str]:
    """Prints the rows of one subnet; returns the comparisons of our search with NNCF."""
    content = onnx_bytes(frozen, describe(frozen, Source(frozen.net)))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "float.onnx"
        path.write_bytes(content)
        model = open_onnx(path)
    images = quant_images(model, FolderSource(args.data / "train"), held_out=args.held_out)
    batches = list(
        evaluation_batches(spread(FolderSource(args.data / args.eval), args.images), model.preprocessing, 64)
    )
    pixels = np.concatenate([part.numpy() for part, _ in batches])
    classes = np.concatenate([labels.numpy() for _, labels in batches])
    macs = count_macs(frozen.net.arch, frozen.net.space, frozen.net.num_classes) / 1e6
    lines = compare(macs, onnx_runtime(content, images, args.max_drop), pixels, classes, args.max_drop)
    return lines + compare(macs, openvino_runtime(frozen, images, args.max_drop), pixels, classes, args.max_drop)


def measure_random(name: str) -> list[str]:
    """The same for a model of the zoo with random weights: only times and sizes are meaningful."""
    frozen = freeze(create_model(name, weights="random"))
    pixels = synthetic_images(4, frozen.preprocessing.input_size).numpy()
    images = QuantImages(pixels, pixels, np.zeros(len(pixels), np.int64))
    macs = count_macs(frozen.net.arch, frozen.net.space, frozen.net.num_classes) / 1e6
    lines = compare(macs, onnx_runtime(onnx_bytes(frozen), images, 100.0), pixels, None, 100.0)
    return lines + compare(macs, openvino_runtime(frozen, images, 100.0), pixels, None, 100.0)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", type=Path, help="a run of alphanet-train, or its .safetensors")
    parser.add_argument("--data", type=Path, help="a folder with train/ and the folder of --eval")
    parser.add_argument("--eval", default="val", help="folder of the images that accuracy is measured on")
    parser.add_argument("--images", type=int, help="how many of them (default: all)")
    parser.add_argument("--archs", type=int, default=3, help="subnets, the smallest and the largest among them")
    parser.add_argument("--held-out", type=int, default=512, help="training images that the drop is judged on")
    parser.add_argument("--bn-images", type=int, default=16384, help="images for the batch norms' statistics")
    parser.add_argument("--max-drop", type=float, default=0.5, help="points of top-1 that int8 may lose")
    parser.add_argument("--random", nargs="+", metavar="MODEL", help="models to compare with random weights instead")
    return parser


def main() -> None:
    """Prints the table."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.random and (args.supernet is None or args.data is None):
        parser.error("pass --supernet and --data, or --random")
    torch.set_num_threads(1)
    print(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}; uint8 x int8 saturates: {saturates()}")
    judged = "" if args.random else "float32 top-1 % | drop (95 % interval) | "
    print(f"| MACs (M) | runtime | method | {judged}layers in float | kB | CPU s | time, int8 / float32 |\n"
          + "|---" * (7 if args.random else 9) + "|")  # fmt: skip
    lines: list[str] = []
    for name in args.random or ():
        lines += measure_random(name)
    if not args.random:
        supernet = open_net(args.supernet).net
        for arch in spread_archs(supernet.space, args.archs, supernet.num_classes):
            preprocessing = input_of(supernet, arch.resolution)
            batches = calibration_batches(FolderSource(args.data / "train"), preprocessing, images=args.bn_images)
            lines += measure(freeze(supernet, batches, arch=arch), args)
    print("", *lines, sep="\n")


if __name__ == "__main__":
    main()
