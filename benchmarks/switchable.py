"""Switching time, size and latency of a switchable network against separate subnets and files.

    python benchmarks/switchable.py [timm/mobilenetv2_100] [--size 224] [--widths 0.25,0.5,1.0] [--runs 50]

Latency is measured with one thread, the files in turn: the least time of each, and the median of the ratios. The
weights are random; they do not affect the time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

import alphanet_zoo as az
from alphanet_export.onnx_model import open_session
from alphanet_export.switchable import run_arch
from alphanet_zoo.slim.named import named_slimmable


def seconds(run: Callable[[], Any]) -> float:
    """Time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", default="timm/mobilenetv2_100", help="timm/NAME or torchvision/NAME")
    parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels (default: 224)")
    parser.add_argument("--widths", default="0.25,0.5,1.0", help="widths of the archs (default: 0.25,0.5,1.0)")
    parser.add_argument("--runs", type=int, default=50, help="runs of each file (default: 50)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    supernet = named_slimmable(args.network, 1000, (3, args.size, args.size))
    archs = {text: supernet.space.at(float(text)) for text in args.widths.split(",")}
    switchable = az.Switchable(supernet, archs)
    images = torch.randn(8, 3, args.size, args.size)
    switchable.calibrate([images])
    switching = [seconds(lambda name=name: switchable.switch(name)) for name in archs for _ in range(1000)]
    print(f"switching: median {1e6 * median(switching):.1f} us, longest {1e3 * max(switching):.3f} ms; "
          f"{switchable.copied_bytes} bytes of weights are copies")  # fmt: skip
    with folder() as path:
        both = switchable.export(path / "switchable.onnx")
        loads, one, total, rows = list[float](), images[:1].numpy(), 0, list[str]()
        loads.append(seconds(lambda: open_session(both.path, threads=1)))
        session = open_session(both.path, threads=1)
        for position, name in enumerate(archs):
            separate = az.export(switchable.subnet(name), path / f"{name}.onnx", verify=False).path
            total += separate.stat().st_size
            loads.append(seconds(lambda file=separate: open_session(file, threads=1)))
            alone = open_session(separate, threads=1)
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(args.runs + 3):
                times[0].append(seconds(lambda file=alone: file.run(None, {"pixel_values": one})))
                times[1].append(seconds(lambda place=position: run_arch(session, place, one)))
            apart, joint = (1e3 * min(each[3:]) for each in times)
            ratio = median(b / a for a, b in zip(*(each[3:] for each in times), strict=True))
            rows.append(f"| {name} | {apart:.2f} | {joint:.2f} | {ratio:.2f} |")
    print(f"size: {both.size / 1e6:.2f} MB in one file, {total / 1e6:.2f} MB in {len(archs)} files")
    print(f"load: {1e3 * loads[0]:.0f} ms for one file, {1e3 * sum(loads[1:]):.0f} ms for {len(archs)} files")
    print("| width | separate (ms) | switchable (ms) | ratio |\n|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
