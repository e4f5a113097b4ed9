"""Builds the family alphanet_c10, from CIFAR-10 to the weights in the package, in stages.

    python benchmarks/cifar_supernet.py throughput --data cifar10.tar.gz --work WORK
    python benchmarks/cifar_supernet.py train      --data cifar10.tar.gz --work WORK --time-limit 540 optim.epochs=120
    python benchmarks/cifar_supernet.py search     --data cifar10.tar.gz --work WORK --time-limit 540
    python benchmarks/cifar_supernet.py evaluate   --data cifar10.tar.gz --work WORK
    python benchmarks/cifar_supernet.py ablation   --data cifar10.tar.gz --work WORK --time-limit 540 --epochs 20
    python benchmarks/cifar_supernet.py curve      --work WORK
    python benchmarks/cifar_supernet.py package    --work WORK

A stage that reaches its time limit prints "RESUME ME" and exits with 0; run the same command again to continue. Results
are written to WORK/results. docs/cifar10.md describes the results of each stage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import torch
from cifar_work import OURS, RECIPE, Work, open_work, resume_me

from alphanet_zoo.cli.command import (
    CommandParser,
    existing_path,
    natural_int,
    positive_float,
    positive_int,
    run_command,
)
from alphanet_zoo.train.config import load_config

PLAIN = ("data.engine=torch", "optim.precision=fp32")
"""Settings of the plain mode that `throughput` compares with."""


def throughput(arguments: argparse.Namespace) -> int:
    """Measures training throughput of the plain mode and of this package, in separate processes, in turns."""
    work = open_work(arguments)
    if arguments.mode:
        print(json.dumps({"mode": arguments.mode, "images_per_second": measured_speed(arguments, work)}))
        return 0
    turns: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(arguments.turns):
        for mode in list(turns)[:: 1 if turn % 2 == 0 else -1]:
            command = [sys.executable, __file__, *sys.argv[1:], f"--mode={mode}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            turns[mode].append(json.loads(done.stdout.splitlines()[-1])["images_per_second"])
            print(f"{mode:<6}{turns[mode][-1]:10.1f} images per second", flush=True)
    ratio = median(o / p for o, p in zip(turns["ours"], turns["plain"], strict=True))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    work.write("throughput.json", {"device": device, "torch": torch.__version__, "images_per_second": turns,
                                   "ratio": ratio, "command": sys.argv})  # fmt: skip
    print(f"ours / plain, median of {arguments.turns} turns: {ratio:.2f}; an epoch of 45,000 images takes ours "
          f"{45_000 / median(turns['ours']):.1f} s")  # fmt: skip
    return 0


def measured_speed(arguments: argparse.Namespace, work: Work) -> float:
    """Images per second of one mode in this process, including data: median over the last two thirds of the steps."""
    from alphanet_zoo.train.distributed import joined
    from alphanet_zoo.train.state import RunState

    settings = PLAIN if arguments.mode == "plain" else ()
    config = load_config(RECIPE, [*OURS, f"data.root={work.data}", "output=unused", *work.overrides, *settings])
    with joined(config.device, config.distributed) as ranks:
        run = RunState(config, ranks)
        run.restore(None)
        advance = plain_advance(run) if arguments.mode == "plain" else run.advance
        times = []
        with closing(run.stream()) as batches:
            for _ in range(min(arguments.steps, run.end)):
                began = time.perf_counter()
                advance(next(batches))
                if ranks.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
    return config.data.batch_size / median(times[len(times) // 3 :])


def plain_advance(run: Any) -> Any:
    """The straightforward training step (`train_step.plain_step`), on batches of the plain loader."""
    from train_step import plain_step

    from alphanet_zoo.train.sandwich import draw_archs

    config, device = run.config, run.ranks.device
    side, size = config.data.image_size, config.data.batch_size
    images, labels = torch.empty(size, 3, side, side, device=device), torch.empty(size, dtype=torch.long, device=device)
    net = run.net.to(memory_format=torch.contiguous_format)
    step = plain_step(net, images, labels)

    def advance(batch: Any) -> None:
        images.copy_(batch.images)
        labels.copy_(batch.labels)
        step(draw_archs(net.space, config.seed, run.step, config.sandwich.random_subnets))
        run.step += 1

    return advance


def train_piece(arguments: argparse.Namespace) -> int:
    """Trains until the end or the time limit, and writes the rounded weights and the log."""
    from alphanet_zoo.train.loop import train
    from alphanet_zoo.zoo.files import save_net
    from alphanet_zoo.zoo.open import open_net

    work = open_work(arguments)
    config = work.config(RECIPE, work.run)
    result = train(config, time_limit=work.seconds_left)
    net = open_net(work.run, ema=config.optim.ema_decay is not None, unfinished=True).net
    digest = save_net(net, work.results / "supernet.safetensors", half=True)
    for name in ("log.jsonl", "config.yaml"):
        shutil.copy(work.run / name, work.results / name)
    print(f"step {result.step}: {work.results / 'supernet.safetensors'} (float16, sha256 {digest})")
    return 0 if result.model is not None else resume_me(f"training stopped after step {result.step}")


def make_parser() -> tuple[CommandParser, dict[str, Any]]:
    """The parser, and the function of each stage."""
    import cifar_family
    import cifar_report

    parser = CommandParser("cifar_supernet.py", "Build the family alphanet_c10, in stages.", epilog=__doc__)
    pieces = parser.add_subparsers(dest="piece", required=True, parser_class=argparse.ArgumentParser)
    actions = {
        "throughput": throughput, "train": train_piece, "search": cifar_family.search_piece,
        "evaluate": cifar_family.evaluate_piece, "ablation": cifar_family.ablation_piece,
        "curve": cifar_report.curve_piece, "package": cifar_family.package_piece,
    }  # fmt: skip
    for name, action in actions.items():
        piece = pieces.add_parser(name, help=(action.__doc__ or "").splitlines()[0])
        piece.add_argument("--work", required=True, type=Path, metavar="FOLDER", help="working folder of all stages")
        if name not in ("curve", "package"):
            piece.add_argument("--data", required=True, type=existing_path, help="CIFAR-10: a folder or a tar file")
            piece.add_argument(
                "--device", default="auto", choices=("auto", "cpu", "cuda"), help="device (default: auto)"
            )
        if name in ("train", "search", "ablation"):
            piece.add_argument(
                "--time-limit",
                type=positive_float,
                metavar="SECONDS",
                help="stop after this time; run again to continue",
            )
        if name in ("throughput", "train", "ablation"):
            piece.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the recipe")
    add_options(pieces.choices)
    return parser, actions


def add_options(pieces: dict[str, argparse.ArgumentParser]) -> None:
    """Adds the options that only some stages have."""
    pieces["throughput"].add_argument("--turns", type=positive_int, default=3, help="turns of each mode (default: 3)")
    pieces["throughput"].add_argument("--steps", type=positive_int, default=60, help="steps per turn (default: 60)")
    pieces["throughput"].add_argument("--mode", choices=("plain", "ours"), help="run one turn of one mode")
    pieces["search"].add_argument(
        "--evaluations", type=positive_int, default=160, help="subnets to evaluate (default: 160)"
    )
    for name in ("search", "evaluate", "ablation"):
        pieces[name].add_argument(
            "--calib-images", type=positive_int, default=8192, help="images per subnet (default: 8192)"
        )
    pieces["ablation"].add_argument("--epochs", type=positive_int, required=True, help="epochs of every run")
    pieces["ablation"].add_argument(
        "--seeds", type=natural_int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)"
    )
    pieces["package"].add_argument("-o", "--output", type=Path, help="output folder (default: that of the package)")


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; returns its exit code."""
    parser, actions = make_parser()
    return run_command(parser, lambda arguments: actions[arguments.piece](arguments), argv)


if __name__ == "__main__":
    sys.exit(main())
