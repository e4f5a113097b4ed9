"""Compares two ways to int8, in ONNX Runtime and in OpenVINO: a search of our own, and NNCF's accuracy control.

Takes the smallest subnet of a trained supernet, the largest, and some between, evenly spread over the MACs. Calibrates
each, exports it in float32, and quantises it in each runtime in both ways, on the same training images. Prints for each
file the drop in top-1 on images that took no part (with a paired 95 % interval), the layers left in float, the size, the
CPU time that quantisation took, and the time of one image as a ratio to float32. Float32 and both int8 files of a
runtime are timed in turns in one process, on one thread, by CPU time. A second table compares the two int8 files.

Run: ``python benchmarks/quantize.py --supernet runs/demo/training --data runs/demo/data --eval test``
(``--random MODEL ...`` compares times and sizes of models of the zoo with random weights, every layer int8.)
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from alphanet_export.build import Source, open_net
from alphanet_export.calibration_data import calibration_batches
from alphanet_export.freeze import FrozenNet, freeze, input_preprocessing
from alphanet_export.metadata import describe
from alphanet_export.onnx_model import INPUT_NAME, FloatArray, open_model, open_session, run_logits
from alphanet_export.quantize.images import QuantImages, quant_images
from alphanet_export.quantize.judge import judge
from alphanet_export.quantize.layers import find_layers
from alphanet_export.quantize.nncf_openvino import NncfOpenVino, folded
from alphanet_export.quantize.onnx_qdq import OnnxQdq, saturates
from alphanet_export.quantize.search import find_int8
from alphanet_export.quiet import quiet
from alphanet_export.verify.environment import cpu_name
from alphanet_export.verify.measure.interleaved import CPU_TIME, interleave, ratio_interval
from alphanet_export.verify.measure.parity import synthetic_images
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_export.writers.to_openvino import openvino_model
from alphanet_zoo.data.preprocess import ImageFolder
from alphanet_zoo.errors import AccuracyError
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.registry import create_model

os.environ["NNCF_CI"] = "1"  # Otherwise NNCF reports its use over the network.

SEARCH, NNCF = "search", "NNCF"
TIMING_ROUNDS = 200


@dataclass(frozen=True)
class Runtime:
    """How a runtime is used.

    Args:
        search: Quantises with our search.
        nncf: Quantises with NNCF's accuracy control.
        runner: From a model (None is float32) and a number of threads to what computes logits.
        layers: (In float, all) convolutions and matrix products of a model.
        size: Bytes of a model's files.
    """

    search: Callable[[], Any]
    nncf: Callable[[], Any]
    runner: Callable[[Any, int], Callable[[FloatArray], FloatArray]]
    layers: Callable[[Any], tuple[int, int]]
    size: Callable[[Any], int]


def onnx_runtime(content: bytes, images: QuantImages, max_drop: float) -> Runtime:
    """ONNX Runtime; a model is the content of an ONNX file."""

    def runner(model: bytes | None, threads: int) -> Callable[[FloatArray], FloatArray]:
        return functools.partial(run_logits, open_session(model or content, "all", threads))

    def nncf() -> bytes:
        proto = onnx.load_model_from_string(content)
        # The accurate bias correction fails on these graphs (NNCF 3.4: it cuts a graph whose output nothing computes).
        made = accuracy_control(proto, images, max_drop, fast_bias_correction=True)
        return bytes(made.SerializeToString())

    def layers(model: bytes) -> tuple[int, int]:
        graph = onnx.load_model_from_string(model).graph
        integer = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        weighted = [node.input[:2] for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
        return sum(not integer.issuperset(inputs) for inputs in weighted), len(weighted)

    return Runtime(
        lambda: find_int8(OnnxQdq(content, images.calibration), images, max_drop=max_drop, time_it=False)[0],
        nncf, runner, layers, len,
    )  # fmt: skip


def openvino_runtime(frozen: FrozenNet, content: bytes, images: QuantImages, max_drop: float) -> Runtime:
    """OpenVINO; a model is an ``openvino.Model``."""
    layers = find_layers(onnx.load_model_from_string(content))
    toolchain = NncfOpenVino(frozen, layers, images.calibration)

    def size(model: Any) -> int:
        with tempfile.TemporaryDirectory() as name:
            toolchain.write(model.clone(), Path(name) / "int8.xml", {})
            return sum(path.stat().st_size for path in Path(name).iterdir())

    return Runtime(
        lambda: find_int8(NncfOpenVino(frozen, layers, images.calibration), images, max_drop=max_drop,
                          time_it=False)[0],
        lambda: accuracy_control(folded(openvino_model(frozen)), images, max_drop, fast_bias_correction=False),
        toolchain.runner, openvino_layers, size,
    )  # fmt: skip


def openvino_layers(model: Any) -> tuple[int, int]:
    """(In float, all) layers of an OpenVINO model. Only an int8 layer has integer weights and a quantised input."""
    weighted = [op for op in model.get_ops() if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")]

    def integer_weights(node: Any) -> bool:
        while node.get_type_name() in ("Reshape", "Multiply", "Subtract", "Convert"):
            node = node.input_value(0).get_node()
        return node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in ("i8", "u8")

    def quantized_input(node: Any) -> bool:
        while node.get_type_name() in ("Reshape", "Squeeze"):
            node = node.input_value(0).get_node()
        return bool(node.get_type_name() == "FakeQuantize")

    in_int8 = sum(
        integer_weights(op.input_value(1).get_node()) and quantized_input(op.input_value(0).get_node())
        for op in weighted
    )
    return len(weighted) - in_int8, len(weighted)


def accuracy_control(model: Any, images: QuantImages, max_drop: float, *, fast_bias_correction: bool) -> Any:
    """``nncf.quantize_with_accuracy_control`` with the images, the metric and the allowed drop of our search."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    assert images.classes is not None
    is_onnx = isinstance(model, onnx.ModelProto)

    def item(image: FloatArray) -> Any:
        return {INPUT_NAME: image[None]} if is_onnx else np.ascontiguousarray(image[None])

    def top1(made: Any, items: Any) -> tuple[float, list[float]]:
        if is_onnx:
            session = open_session(made.SerializeToString())
            right = [float(session.run(None, item(x))[0].argmax() == y) for x, y in items]
        else:
            right = [float(made(item(x))[0].argmax() == y) for x, y in items]
        return float(np.mean(right)), right

    with quiet():
        return nncf.quantize_with_accuracy_control(
            model,
            nncf.Dataset([item(image) for image in images.calibration]),
            nncf.Dataset(list(zip(images.held_out, images.classes, strict=True)), lambda pair: item(pair[0])),
            top1,
            max_drop=max_drop / 100,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images.calibration),
            fast_bias_correction=fast_bias_correction,
            advanced_quantization_parameters=AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.ENABLE if saturates() else OverflowFix.DISABLE
            ),
        )


def compare(macs: float, title: str, runtime: Runtime, pixels: FloatArray, classes: Any, max_drop: float) -> list[str]:
    """Prints a row for each way; returns the rows of the second table."""
    runs = {"float32": runtime.runner(None, 1)}
    logits = {"float32": runs["float32"](pixels)}
    cells: dict[str, str] = {}
    for way, quantize in ((SEARCH, runtime.search), (NNCF, runtime.nncf)):
        began = time.process_time()
        try:
            made = quantize()
        except AccuracyError as error:
            print(f"| {macs:.2f} | {title} | {way} | {error} |", flush=True)
            continue
        spent = time.process_time() - began
        in_float, total = runtime.layers(made)
        runs[way] = runtime.runner(made, 1)
        logits[way] = runs[way](pixels)
        cells[way] = f"{in_float} of {total} | {runtime.size(made) / 1e3:.0f} | {spent:.0f}"
        if classes is None:
            continue
        verdict = judge(logits["float32"], logits[way], classes, max_drop)
        low, high = verdict.drop_interval
        cells[way] = f"{verdict.float_top1:.2f} | {verdict.drop:.2f} ({low:.2f} to {high:.2f}) | {cells[way]}"
    image = pixels[:1]
    timed = {name: functools.partial(run, image) for name, run in runs.items()}
    times = interleave(timed, rounds=TIMING_ROUNDS, seconds=3.0, clock=CPU_TIME)

    def ratio(name: str, other: str) -> str:
        low, high = ratio_interval(times[name], times[other])
        return f"{np.median(times[name]) / np.median(times[other]):.3f} ({low:.3f} to {high:.3f})"

    for way, text in cells.items():
        print(f"| {macs:.2f} | {title} | {way} | {text} | {ratio(way, 'float32')} |", flush=True)
    if len(cells) < 2:
        return []
    times_cell = ratio(SEARCH, NNCF)
    if classes is None:
        return [f"| {macs:.2f} | {title} | {times_cell} |"]
    verdict = judge(logits[NNCF], logits[SEARCH], classes, max_drop)
    low, high = (-end for end in reversed(verdict.drop_interval))
    return [f"| {macs:.2f} | {title} | {-verdict.drop:.2f} ({low:.2f} to {high:.2f}) | {times_cell} |"]


def spread_archs(space: SearchSpace, count: int, num_classes: int, seed: int = 0) -> list[ArchSpec]:
    """The smallest and the largest arch, and random ones nearest to equal steps of MACs between."""
    rng = np.random.default_rng(seed)
    sampled = [space.sample(rng) for _ in range(500)]
    costs = np.array([count_macs(arch, space, num_classes) for arch in sampled])
    low, high = (count_macs(arch, space, num_classes) for arch in (space.smallest, space.largest))
    steps = np.linspace(low, high, count)[1:-1]
    return [space.smallest, *(sampled[int(np.abs(costs - step).argmin())] for step in steps), space.largest]


def measure(frozen: FrozenNet, args: argparse.Namespace) -> list[str]:
    """Prints the rows of one subnet; returns those of the second table."""
    content = onnx_bytes(frozen, describe(frozen, Source(frozen.net)))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "float.onnx"
        path.write_bytes(content)
        model = open_model(path)
    images = quant_images(model, ImageFolder(args.data / "train"), held_out=args.held_out)
    batches = list(ImageFolder(args.data / args.eval).batches(model.preprocessing, 64, args.images))
    pixels = np.concatenate([part.numpy() for part, _ in batches])
    classes = np.concatenate([labels.numpy() for _, labels in batches])
    macs = count_macs(frozen.net.arch, frozen.net.space, frozen.net.num_classes) / 1e6
    rows = compare(macs, "ONNX Runtime", onnx_runtime(content, images, args.max_drop), pixels, classes, args.max_drop)
    other = openvino_runtime(frozen, content, images, args.max_drop)
    return rows + compare(macs, "OpenVINO", other, pixels, classes, args.max_drop)


def measure_random(name: str) -> list[str]:
    """The same for a model of the zoo with random weights: times and sizes alone mean something."""
    frozen = freeze(create_model(name, weights="random"))
    content = onnx_bytes(frozen)
    pixels = synthetic_images(4, frozen.preprocessing.input_size).numpy()
    images = QuantImages(pixels, pixels, np.zeros(len(pixels), np.int64))
    macs = count_macs(frozen.net.arch, frozen.net.space, frozen.net.num_classes) / 1e6
    rows = compare(macs, "ONNX Runtime", onnx_runtime(content, images, 100.0), pixels, None, 100.0)
    return rows + compare(macs, "OpenVINO", openvino_runtime(frozen, content, images, 100.0), pixels, None, 100.0)


def main() -> None:
    """Prints the tables."""
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
    args = parser.parse_args()
    if not args.random and (args.supernet is None or args.data is None):
        parser.error("pass --supernet and --data, or --random")
    torch.set_num_threads(1)
    print(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}; uint8 x int8 saturates: {saturates()}")
    judged = "" if args.random else "float32 top-1 % | drop (95 % interval) | "
    print(f"| MACs (M) | runtime | method | {judged}layers in float | kB | CPU s | time, int8 / float32 |\n"
          + "|---" * (7 if args.random else 9) + "|")  # fmt: skip
    pairs: list[str] = []
    for name in args.random or ():
        pairs += measure_random(name)
    if not args.random:
        supernet = open_net(args.supernet)
        for arch in spread_archs(supernet.space, args.archs, supernet.num_classes):
            preprocessing = input_preprocessing(supernet, arch.resolution)
            batches = calibration_batches(ImageFolder(args.data / "train"), preprocessing, images=args.bn_images)
            pairs += measure(freeze(supernet, batches, arch=arch), args)
    gain = "" if args.random else "top-1, search less NNCF (95 % interval) | "
    print(f"\n| MACs (M) | runtime | {gain}time, search / NNCF |\n" + "|---" * (3 if args.random else 4) + "|")
    print("\n".join(pairs))


if __name__ == "__main__":
    main()
