"""Claim: int8 loses at most 0.5 points of top-1, in ONNX Runtime and OpenVINO, on every subnet of a trained supernet.

Takes subnets of a supernet from the smallest to the largest, spread over the MACs between; calibrates each, exports it
in float32, and quantises it with both toolchains on training images. Accuracy and McNemar's test are of images that
took no part. int8 and float32 are timed in turns in one process, on one thread, by CPU time, which other programs
hardly change.

Run: ``python benchmarks/quantize.py --supernet runs/demo/training --data runs/demo/data --eval test``
(``--random MODEL`` times a model of the zoo with random weights instead; its accuracy means nothing and is not shown).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from alphanet_export.build import Source, open_net
from alphanet_export.freeze import FrozenNet, freeze, input_preprocessing
from alphanet_export.metadata import describe, open_exported
from alphanet_export.quantize.images import QuantImages, quant_images
from alphanet_export.quantize.judge import judge
from alphanet_export.quantize.layers import find_layers
from alphanet_export.quantize.nncf_openvino import NncfOpenVino
from alphanet_export.quantize.onnx_qdq import OnnxQdq, saturates
from alphanet_export.quantize.search import find_int8, measure_speed
from alphanet_export.quantize.toolchain import Toolchain
from alphanet_export.verify.environment import cpu_name
from alphanet_export.verify.measure.parity import synthetic_images
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.calibration import calibration_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import spread
from alphanet_zoo.errors import AccuracyError
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.registry import create_model


def spread_archs(space: SearchSpace, count: int, num_classes: int, seed: int = 0) -> list[ArchSpec]:
    """The smallest and the largest arch, and random ones nearest to equal steps of MACs between."""
    rng = np.random.default_rng(seed)
    sampled = [space.sample(rng) for _ in range(500)]
    costs = np.array([count_macs(arch, space, num_classes) for arch in sampled])
    low, high = (count_macs(arch, space, num_classes) for arch in (space.smallest, space.largest))
    steps = np.linspace(low, high, count)[1:-1]
    return [space.smallest, *(sampled[int(np.abs(costs - step).argmin())] for step in steps), space.largest]


def toolchains(frozen: FrozenNet, content: bytes, images: QuantImages, names: list[str]) -> dict[str, Toolchain]:
    """Those asked for, on the same images."""
    made: dict[str, Toolchain] = {}
    if "onnx" in names:
        made["onnx"] = OnnxQdq(content, images.calibration)
    if "openvino" in names:
        layers = find_layers(onnx.load_model_from_string(content))
        made["openvino"] = NncfOpenVino(frozen, layers, images.calibration)
    return made


def measure(frozen: FrozenNet, args: argparse.Namespace, scratch: Path) -> None:
    """Prints a row for each toolchain."""
    content = onnx_bytes(frozen, describe(frozen, Source(frozen.net)))
    scratch.write_bytes(content)
    model = open_exported(scratch)
    data = Path(args.data)
    images = quant_images(model, FolderSource(data / "train"), calibration=args.calibration, held_out=args.held_out)
    batches = list(evaluation_batches(spread(FolderSource(data / args.eval), args.images), model.preprocessing, 64))
    pixels = np.concatenate([part.numpy() for part, _ in batches])
    classes = np.concatenate([labels.numpy() for _, labels in batches])
    macs = count_macs(frozen.net.arch, frozen.net.space, frozen.net.num_classes) / 1e6
    for name, toolchain in toolchains(frozen, content, images, args.toolchains).items():
        began = time.process_time()
        try:
            made, log = find_int8(toolchain, images, max_drop=args.max_drop)
        except AccuracyError as error:
            print(f"| {macs:.2f} | {name} | {error} |", flush=True)
            continue
        spent = time.process_time() - began
        verdict = judge(toolchain.runner(None)(pixels), toolchain.runner(made)(pixels), classes, args.max_drop)
        assert log.speed is not None and verdict.p_value is not None
        (low, high), (fast, slow) = verdict.drop_interval, log.speed.ratio_interval
        print(
            f"| {macs:.2f} | {name} | {log.method} | {len(log.float_layers)} | {verdict.float_top1:.2f} | "
            f"{verdict.top1:.2f} | {verdict.drop:.2f} ({low:.2f} to {high:.2f}) | {verdict.p_value:.2g} | "
            f"{verdict.agreement:.2f} | {log.speed.ratio:.3f} ({fast:.3f} to {slow:.3f}) | {spent:.0f} |",
            flush=True,
        )


def measure_random(net: AlphaNet, args: argparse.Namespace) -> None:
    """Prints the ratios of a net with random weights, every layer int8."""
    frozen = freeze(net)
    content = onnx_bytes(frozen)
    pixels = synthetic_images(4, frozen.preprocessing.input_size).numpy()
    for name, toolchain in toolchains(frozen, content, QuantImages(pixels, pixels, None), args.toolchains).items():
        made = toolchain.build("min-max", [layer.name for layer in toolchain.layers])
        speed = measure_speed(toolchain, made, pixels[:1])
        low, high = speed.ratio_interval
        print(
            f"| {count_macs(net.arch, net.space, net.num_classes) / 1e6:.2f} | {name} | {speed.float_median_ms:.2f} | "
            f"{speed.median_ms:.2f} | {speed.ratio:.3f} ({low:.3f} to {high:.3f}) |",
            flush=True,
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", type=Path, help="a supernet of alphanet-train")
    parser.add_argument("--data", help="a folder with train/ and the folder of --eval")
    parser.add_argument("--eval", default="val", help="folder of the images that accuracy is measured on")
    parser.add_argument("--images", type=int, help="how many of them")
    parser.add_argument("--archs", type=int, default=5)
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--held-out", type=int, default=512)
    parser.add_argument("--bn-images", type=int, default=16384, help="images for the batch norms' statistics")
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--toolchains", nargs="+", default=["onnx", "openvino"], choices=("onnx", "openvino"))
    parser.add_argument("--scratch", type=Path, default=Path("quantize-scratch.onnx"))
    parser.add_argument("--random", nargs="+", metavar="MODEL", help="models of the zoo to time with random weights")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}; uint8 x int8 saturates: {saturates()}")
    if args.random:
        print("| MACs (M) | toolchain | float32, ms | int8, ms | ratio (95 % interval) |\n|---|---|---|---|---|")
        for name in args.random:
            measure_random(create_model(name, weights="random"), args)
        return
    supernet = open_net(args.supernet)
    print("| MACs (M) | toolchain | ranges | layers in float | float32 top-1 % | int8 top-1 % | drop (95 % interval) | "
          "McNemar p | same class % | time, int8 / float32 | CPU s |\n" + "|---" * 11 + "|")  # fmt: skip
    for arch in spread_archs(supernet.space, args.archs, supernet.num_classes):
        preprocessing = input_preprocessing(supernet, arch.resolution)
        batches = calibration_batches(FolderSource(Path(args.data) / "train"), preprocessing, images=args.bn_images)
        try:
            measure(freeze(supernet, batches, arch=arch), args, args.scratch)
        finally:
            args.scratch.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
