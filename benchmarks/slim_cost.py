"""Archs of slimmable networks counted per second, and the overhead of a training step through a supernet.

    python benchmarks/slim_cost.py            # counting, on one core, in CPU time
    python benchmarks/slim_cost.py --step     # training step at full width, supernet against the plain network

Counting: median of the repeats, with the slowest and the fastest in parentheses. Step: forward and backward pass of the
supernet at full width and of the network itself, run alternately; median of the ratios of the pairs with its 95 %
bootstrap interval. The batch norms of both use the statistics of the batch and keep none.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
import torchvision
from torch import nn

from alphanet_zoo.slim.presets import SLIMMABLE_MOBILENET_V1
from alphanet_zoo.slim.supernet import slimmable

_ARCHS = 200_000
_BATCH = 32


def _networks() -> dict[str, Callable[[], nn.Module]]:
    """The networks that are counted."""
    models = torchvision.models
    return {
        "MobileNetV1": lambda: SLIMMABLE_MOBILENET_V1.build(1000),
        "MobileNetV2": lambda: models.mobilenet_v2(weights=None),
        "ResNet-50": lambda: models.resnet50(weights=None),
        "DenseNet-121": lambda: models.densenet121(weights=None),
    }


def counting(repeats: int) -> None:
    """Prints the archs counted per second."""
    print(f"| network | tie | groups | archs | MACs of {_ARCHS} archs: archs per second |")
    print("|---|---|---|---|---|")
    for name, build in _networks().items():
        for tie in ("uniform", "stage", None):
            space = slimmable(build(), (3, 64, 64), tie=tie, depth=name == "ResNet-50").space
            rows = space.sample_array(_ARCHS, np.random.default_rng(0))
            rates = []
            for _ in range(repeats):
                start = time.process_time()
                space.count_macs(rows)
                rates.append(_ARCHS / (time.process_time() - start))
            archs = np.prod([float(len(choices)) for _, choices in space.entries])
            print(
                f"| {name} | {tie} | {len(space.groups)} | {archs:.3g} | {median(rates):,.0f} "
                f"({min(rates):,.0f} to {max(rates):,.0f}) |",
                flush=True,
            )


def step(repeats: int) -> None:
    """Prints the ratio of the times of a training step."""
    images = torch.randn(_BATCH, 3, 64, 64)
    print("| network | plain, median ms | at full width | at half width, relative to the extracted network |")
    print("|---|---|---|---|")
    for name in ("MobileNetV2", "ResNet-50"):
        supernet = slimmable(_networks()[name](), (3, 64, 64)).train()
        half = supernet.space.at(0.5)
        static = supernet.extract(half)
        for module in static.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
        plain = [_seconds(supernet.net, images)]
        ratios: dict[str, list[float]] = {"full": [], "half": []}
        for _ in range(repeats):
            plain.append(_seconds(supernet.net, images))
            ratios["full"].append(_seconds(supernet, images) / plain[-1])
            apart = _seconds(static, images)
            ratios["half"].append(_seconds(lambda x, net=supernet, arch=half: net(x, arch), images) / apart)
        print(f"| {name} | {1e3 * median(plain):.0f} | {_interval(ratios['full'])} | {_interval(ratios['half'])} |")


def _seconds(net: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> float:
    """CPU seconds of a forward and backward pass."""
    start = time.process_time()
    net(images).square().mean().backward()
    return time.process_time() - start


def _interval(ratios: list[float]) -> str:
    """The median with its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Cost model and overhead of slimmable networks, one core")
    parser.add_argument("--step", action="store_true", help="measure training steps instead of counting")
    parser.add_argument("--repeats", type=int, default=9, help="repeats per median (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    (step if options.step else counting)(options.repeats)


if __name__ == "__main__":
    main()
