"""Claim: time of every runtime and precision relative to a plain ONNX export, and the share of peak performance.

The plain export is that of ``benchmarks/export.py``. The files of a model, in float32 and int8, and a matrix product of
768 x 768 run in one process on the same threads, once per round in random order. The rate of the matrix product is the
peak that convolutions are compared with. In an int8 file every layer is quantised on synthetic images, so only its time
is meaningful. The other files are compared with PyTorch, on the images of ``--data`` or on eight synthetic images.

Run: ``python benchmarks/runtimes.py --data PHOTOGRAPHS --png benchmarks/runtimes.png`` (2 threads; ``--threads 1``
measures CPU time).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.quantize.images import QuantImages
from alphanet_export.quantize.nncf_openvino import quantize_openvino, write_openvino_int8
from alphanet_export.quantize.onnx_qdq import quantize_onnx
from alphanet_export.runtimes.runtime import Runtime, open_runtime
from alphanet_export.runtimes.torch_runtimes import torch_threads
from alphanet_export.verify.environment import cpu_name
from alphanet_export.verify.measure.ab import clock_for, interleave
from alphanet_export.verify.measure.parity import Parity, measure_parity, synthetic_images
from alphanet_export.writers.to_aoti import write_aoti
from alphanet_export.writers.to_executorch import write_executorch
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_export.writers.to_openvino import write_openvino
from alphanet_export.writers.to_pt2 import write_program
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.evaluate.statistics import median_ratio_interval
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.zoo.registry import create_model
from export import plain_onnx

PLAIN, PEAK, REFERENCE = "plain export, ONNX Runtime", "matrix product", "PyTorch, eager"
SIDE = 768
"""Side of the matrices. Their product exceeds the caches of a core, and takes about as long as a small network."""


@dataclass(frozen=True)
class Measured:
    """One way to run one model.

    Args:
        name: The runtime and precision.
        median_ms: Median time of one image.
        ratio: Median time relative to that of the plain export.
        interval: 95 % bootstrap interval of ``ratio``, over rounds.
        peak_share: Multiply-accumulates per second relative to those of the matrix product.
        parity: Parity with PyTorch; None for int8, and for PyTorch.
    """

    name: str
    median_ms: float
    ratio: float
    interval: tuple[float, float]
    peak_share: float
    parity: Parity | None


def write_int8(frozen: FrozenNet, content: bytes, path: Path) -> None:
    """Writes a file with every layer in int8, calibrated on synthetic images, so that only its time is meaningful."""
    pixels = synthetic_images(4, frozen.preprocessing.input_size).numpy()
    images = QuantImages(pixels, pixels, None)
    if path.suffix == ".onnx":
        path.write_bytes(quantize_onnx(content, images, max_drop=100.0, time_it=False)[0])
    else:
        write_openvino_int8(quantize_openvino(frozen, images, max_drop=100.0, time_it=False)[0], path, {})


def write_files(frozen: FrozenNet, folder: Path, only: str) -> dict[str, Path]:
    """Writes the files of a model whose name contains ``only``; returns their paths by runtime and precision."""
    content = onnx_bytes(frozen)
    writers: dict[str, tuple[str, Callable[[Path], object]]] = {
        PLAIN: ("plain.onnx", lambda path: path.write_bytes(plain_onnx(frozen.net))),
        "ONNX Runtime": ("ours.onnx", lambda path: path.write_bytes(content)),
        "ONNX Runtime, int8": ("int8.onnx", lambda path: write_int8(frozen, content, path)),
        "OpenVINO": ("ours.xml", lambda path: write_openvino(frozen, path)),
        "OpenVINO, int8": ("int8.xml", lambda path: write_int8(frozen, content, path)),
        "ExecuTorch": ("ours.pte", lambda path: write_executorch(frozen, path)),
        "AOTInductor": ("aoti.pt2", lambda path: write_aoti(frozen, path)),
        "ExportedProgram": ("ours.pt2", lambda path: write_program(frozen, path)),
    }
    files = {}
    for name, (file, write) in writers.items():
        if only in name:
            write(folder / file)
            files[name] = folder / file
    return files


@contextmanager
def opened(frozen: FrozenNet, folder: Path, threads: int, only: str) -> Iterator[dict[str, Runtime]]:
    """Each file in its runtime, and the net in PyTorch."""
    models = {**write_files(frozen, folder, only), REFERENCE: frozen.net}
    with ExitStack() as stack:
        stack.enter_context(torch_threads(threads))
        yield {name: stack.enter_context(open_runtime(model, threads=threads)) for name, model in models.items()}


def parities(runtimes: dict[str, Runtime], frozen: FrozenNet, data: Path | None) -> dict[str, Parity]:
    """Parity of each float32 file with PyTorch."""
    found = {}
    for name, runtime in runtimes.items():
        if name != REFERENCE and "int8" not in name:
            images: Iterable[Tensor] = [synthetic_images(8, frozen.preprocessing.input_size)]
            if data:
                images = (batch for batch, _ in evaluation_batches(FolderSource(data), frozen.preprocessing, 20))
            found[name] = measure_parity(runtime, frozen.net, images)
    return found


def measure(frozen: FrozenNet, rounds: int, threads: int, data: Path | None, only: str) -> list[Measured]:
    """Times every runtime and precision of a model; the fastest first."""
    image = synthetic_images(1, frozen.preprocessing.input_size).numpy()
    left, right = (torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with tempfile.TemporaryDirectory() as folder, opened(frozen, Path(folder), threads, only) as runtimes:
        parity = parities(runtimes, frozen, data)
        runs: dict[str, Callable[[], object]] = {PEAK: partial(torch.mm, left, right)}
        runs |= {name: partial(runtime.infer, image) for name, runtime in runtimes.items()}
        times = interleave(runs, rounds=rounds, clock=clock_for(threads))
    peak = SIDE**3 / float(np.median(times.pop(PEAK)))
    net = frozen.net
    macs, plain = count_macs(net.arch, net.space, net.num_classes), times[PLAIN]
    print(f"\nthe matrix product: {2e-6 * peak:.1f} GFLOP/s", flush=True)
    measured = [
        Measured(
            name,
            float(np.median(values)),
            float(np.median(values) / np.median(plain)),
            median_ratio_interval(values, plain),
            macs / float(np.median(values)) / peak,
            parity.get(name),
        )
        for name, values in times.items()
    ]
    return sorted(measured, key=lambda one: one.median_ms)


def draw(results: dict[str, list[Measured]], path: Path, title: str) -> None:
    """Plots the ratios with their intervals as bars, one colour per model."""
    from matplotlib.figure import Figure

    names = [one.name for one in next(iter(results.values()))]
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(results)
    for index, (model, measured) in enumerate(results.items()):
        by_name = {one.name: one for one in measured}
        ratios = np.array([by_name[name].ratio for name in names])
        intervals = np.array([by_name[name].interval for name in names])
        places = np.arange(len(names)) + (index - (len(results) - 1) / 2) * height
        axes.barh(places, ratios, height, xerr=np.abs(intervals.T - ratios), label=model)
    axes.axvline(1.0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="time of one image, relative to the plain export", title=title)
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["alphanet_a0", "alphanet_a4", "alphanet_a6"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, help="images for parity, one folder per class")
    parser.add_argument("--only", default="", help="runtimes whose name contains this, such as 'ONNX Runtime'")
    parser.add_argument("--png", type=Path, help="also plot the ratios")
    args = parser.parse_args()
    print(f"{cpu_name()}, {os.cpu_count()} cores; {args.threads} threads, {clock_for(args.threads).name}", flush=True)
    results = {}
    for model in args.models:
        frozen = freeze(create_model(model, weights="random"))
        results[model] = measure(frozen, args.rounds, args.threads, args.data, args.only)
        print(
            f"\n| {model} | median ms | relative to plain export (95 %) | of the peak | relative error | same class |"
        )
        print("|---|---|---|---|---|---|")
        for one in results[model]:
            low, high = one.interval
            found = one.parity
            parity = f"{found.max_relative_error:.1e} | {found.top1_agreement:.4f}" if found else " | "
            print(
                f"| {one.name} | {one.median_ms:.2f} | {one.ratio:.3f} ({low:.3f} to {high:.3f}) | "
                f"{100 * one.peak_share:.0f} % | {parity} |",
                flush=True,
            )
    if args.png:
        draw(results, args.png, f"{args.threads} threads of {cpu_name()}")


if __name__ == "__main__":
    main()
