"""Claim: the ONNX export takes at most 0.95 of the time of a plain export, with the same logits to 1e-5.

The plain export is ``torch.onnx.export(dynamo=True)`` of a straightforward PyTorch module with the same weights: means
for pooling, ``relu6(x + 3) / 6`` for the hard sigmoid, separate batch norms.

Both run in ONNX Runtime on the CPU in one process, once per round in random order, so that other programs affect both
alike. With several threads, rounds during which other programs use more than a tenth of a core are discarded, so on a
busy machine the script takes longer. With ``--threads 1``, CPU time is measured, and no round is discarded.

Run: ``python benchmarks/export.py`` (400 rounds by default; ``--cold`` measures the commands instead).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphanet_export.freeze import freeze
from alphanet_export.onnx_model import open_session
from alphanet_export.verify.environment import cpu_name
from alphanet_export.verify.measure.ab import clock_for, interleave
from alphanet_export.verify.measure.parity import synthetic_images
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.evaluate.statistics import median_ratio_interval
from alphanet_zoo.nn.layers import MBConv
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.zoo.registry import create_model

BLOCK = 20
"""Rounds that are kept or discarded together."""
QUIET = 0.1
"""Cores that other programs may use during a block of rounds that is kept."""

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class PlainBlock(nn.Module):
    """A straightforward block, not optimised for the exporter."""

    def __init__(self, block: MBConv) -> None:
        """Shares the layers of ``block``."""
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C', H', W')``."""
        block, y = self.block, x
        if block.conv_pw is not None and block.bn1 is not None:
            y = F.silu(block.bn1(block.conv_pw(y)))
        y = F.silu(block.bn2(block.conv_dw(y)))
        if block.se is not None:
            gate = block.se.conv_expand(F.relu(block.se.conv_reduce(y.mean((2, 3), keepdim=True))))
            y = y * (F.relu6(gate + 3) / 6)
        y = block.bn3(block.conv_pwl(y))
        if block.shape.stride == 2:
            x = F.avg_pool2d(x, 2, 2, x.shape[-1] % 2)
        output: Tensor = y + (x if block.shortcut is None else block.shortcut(x))
        return output


class PlainNet(nn.Module):
    """A straightforward network, not optimised for the exporter."""

    def __init__(self, net: AlphaNet) -> None:
        """Shares the layers of a static ``net``."""
        super().__init__()
        self.net = net
        self.blocks = nn.Sequential(*(PlainBlock(block) for stage in net.blocks for block in stage))  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of ``(N, 3, R, R)``."""
        net = self.net
        x = self.blocks(F.silu(net.bn1(net.conv_stem(x))))
        x = F.silu(net.bn2(net.conv_final(x))).mean((2, 3), keepdim=True)
        logits: Tensor = net.classifier(F.silu(net.conv_head(x)).flatten(1))
        return logits


def others_cpu_seconds() -> float:
    """CPU seconds that other processes have used; 0 if the system does not report them (not Linux)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(int, fields[:8])
    busy = (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


@dataclass(frozen=True)
class Comparison:
    """Milliseconds per round of both exports, and the largest relative difference of their logits."""

    plain: Array
    ours: Array
    difference: float


def plain_onnx(net: AlphaNet) -> bytes:
    """The content of a plain export of a static net."""
    image = torch.zeros(1, 3, net.arch.resolution, net.arch.resolution)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "plain.onnx"
        torch.onnx.export(PlainNet(net).eval(), (image,), path, dynamo=True, opset_version=18, verbose=False,
                          input_names=["pixel_values"], output_names=["logits"], external_data=False)  # fmt: skip
        return path.read_bytes()


def sessions_of(net: AlphaNet, threads: int) -> dict[str, onnxruntime.InferenceSession]:
    """Both exports of a net, loaded at full optimisation; the threads of one sleep while the other runs."""
    contents = {"plain": plain_onnx(net), "ours": onnx_bytes(freeze(net))}
    return {
        name: open_session(content, "all", threads, spin=True, sleep_between=True) for name, content in contents.items()
    }


def compare(net: AlphaNet, rounds: int, threads: int, rng: np.random.Generator) -> Comparison:
    """Times both exports of a net, once per round, in random order."""
    sessions = sessions_of(net, threads)
    images = synthetic_images(8, net.arch.resolution).numpy()[:, None]
    logits = {name: np.concatenate([s.run(None, {"pixel_values": i})[0] for i in images])
              for name, s in sessions.items()}  # fmt: skip
    scale = np.abs(logits["plain"]).max(axis=1)
    difference = float((np.abs(logits["ours"] - logits["plain"]).max(axis=1) / scale).max())
    feed = {"pixel_values": images[0]}
    runs = {name: partial(session.run, None, feed) for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    while len(times["ours"]) < rounds:
        others, start = others_cpu_seconds(), time.perf_counter()
        block = interleave(runs, rounds=BLOCK, seed=int(rng.integers(2**32)), clock=clock_for(threads))
        share = (others_cpu_seconds() - others) / (time.perf_counter() - start)
        if threads == 1 or share < QUIET:
            for name, values in block.items():
                times[name].extend(values)
    return Comparison(np.array(times["plain"]), np.array(times["ours"]), difference)


def measure_cold(repeats: int = 5) -> None:
    """Prints wall times of the commands, each in a fresh process (with a warm file cache)."""
    command = [sys.executable, "-m", "alphanet_zoo.cli.export"]
    with tempfile.TemporaryDirectory() as folder:
        export = [*command, "--model", "alphanet_a4", "--weights", "random", "--onnx", "-o", f"{folder}/"]
        for label, words in (("--help", [*command, "--help"]), ("--model alphanet_a4 --weights random --onnx", export)):
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                subprocess.run(words, check=True, capture_output=True)
                times.append(time.perf_counter() - start)
            print(
                f"| alphanet-export {label} | {statistics.median(times):.2f} s | {min(times):.2f} to {max(times):.2f} |"
            )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["alphanet_a0", "alphanet_a4", "alphanet_a6"])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="measure the commands instead")
    args = parser.parse_args()
    print(f"{cpu_name()}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    if args.cold:
        measure_cold()
        return
    rng = np.random.default_rng(args.seed)
    print("| model | plain, median ms | ours, median ms | ratio (95 % interval) | largest relative difference |")
    print("|---|---|---|---|---|")
    for name in args.models:
        comparison = compare(create_model(name, weights="random"), args.rounds, args.threads, rng)
        plain, ours = np.median(comparison.plain), np.median(comparison.ours)
        low, high = median_ratio_interval(comparison.ours, comparison.plain)
        ratio = f"{ours / plain:.3f} ({low:.3f} to {high:.3f})"
        print(f"| {name} | {plain:.2f} | {ours:.2f} | {ratio} | {comparison.difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
