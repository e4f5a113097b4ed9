"""Builds the family alphanet_c10, from CIFAR-10 to the weights in the package, in stages.

    python benchmarks/cifar_supernet.py run        --data cifar10.tar.gz --work WORK --time-limit 560

`run` does everything but the last two stages in one call. The stages can also be called one after the other:

    python benchmarks/cifar_supernet.py train      --data cifar10.tar.gz --work WORK --time-limit 540 optim.epochs=120
    python benchmarks/cifar_supernet.py search     --data cifar10.tar.gz --work WORK --time-limit 540
    python benchmarks/cifar_supernet.py evaluate   --data cifar10.tar.gz --work WORK
    python benchmarks/cifar_supernet.py curve      --work WORK
    python benchmarks/cifar_supernet.py package    --work WORK

A stage that reaches its time limit prints "RESUME ME" and exits with 0; run the same command again to continue. Results
are written to WORK/results. docs/cifar10.md describes the results of each stage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cifar_family
import cifar_report
import torch
from cifar_work import RECIPE, Work, open_work, resume_me

from alphanet_zoo.cli.arguments import existing_path, positive_float, positive_int
from alphanet_zoo.cli.command import CommandParser, run_command


def run_piece(arguments: argparse.Namespace) -> int:
    """Measures the time of a step, trains, searches and evaluates, all within --time-limit."""
    work = open_work(arguments)
    assert work.seconds_left is not None
    plan = work.results / "run.json"
    if not plan.exists():
        work.write(plan.name, planned(arguments, work))
    settings = json.loads(plan.read_text("utf-8"))["settings"]
    arguments.overrides = [*settings, *arguments.overrides]
    arguments.time_limit = max(work.seconds_left - arguments.reserve, 1.0)
    train_piece(arguments)
    if not (work.run / "final" / "model.safetensors").exists():
        return 0
    arguments.time_limit = max(work.seconds_left - arguments.reserve / 3, 1.0)
    cifar_family.search_piece(arguments)
    return cifar_family.evaluate_piece(arguments) if (work.results / "search.json").exists() else 0


def planned(arguments: argparse.Namespace, work: Work) -> dict[str, Any]:
    """The measured time of a step, and the number of epochs that fits into the remaining time."""
    from alphanet_zoo.train.dryrun import dry_run

    measured = dry_run(work.config(RECIPE, work.run), arguments.probe_steps)
    assert measured is not None
    print(measured, flush=True)
    epoch_seconds = measured.total_seconds / work.config(RECIPE, work.run).optim.epochs
    epochs = max(int(((work.seconds_left or 0.0) - arguments.reserve) / (1.02 * epoch_seconds)), 1)
    settings = [f"optim.epochs={epochs}", f"optim.warmup_epochs={min(10.0, epochs / 10)}"]
    print(f"settings: {' '.join(settings)}", flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "device": device, "torch": torch.__version__, "epoch_seconds": epoch_seconds,
        "images_per_second": measured.phases[0].images_per_second, "settings": settings, "command": sys.argv,
    }  # fmt: skip


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
    parser = CommandParser("cifar_supernet.py", "Build the family alphanet_c10, in stages.", epilog=__doc__)
    pieces = parser.add_subparsers(dest="piece", required=True, parser_class=argparse.ArgumentParser)
    actions = {
        "run": run_piece, "train": train_piece, "search": cifar_family.search_piece,
        "evaluate": cifar_family.evaluate_piece, "curve": cifar_report.curve_piece,
        "package": cifar_family.package_piece,
    }  # fmt: skip
    for name, action in actions.items():
        piece = pieces.add_parser(name, help=(action.__doc__ or "").splitlines()[0])
        piece.add_argument("--work", required=True, type=Path, metavar="FOLDER", help="working folder of all stages")
        if name not in ("curve", "package"):
            piece.add_argument("--data", required=True, type=existing_path, help="CIFAR-10: a folder or a tar file")
            piece.add_argument(
                "--device", default="auto", choices=("auto", "cpu", "cuda"), help="device (default: auto)"
            )
        if name in ("run", "train", "search"):
            piece.add_argument(
                "--time-limit",
                type=positive_float,
                default=560.0 if name == "run" else None,
                metavar="SECONDS",
                help="stop after this time; run again to continue",
            )
        if name in ("run", "train"):
            piece.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the recipe")
    add_options(pieces.choices)
    return parser, actions


def add_options(pieces: dict[str, argparse.ArgumentParser]) -> None:
    """Adds the options that only some stages have."""
    for name, count in (("run", 80), ("search", 160)):
        pieces[name].add_argument(
            "--evaluations", type=positive_int, default=count, help=f"subnets to evaluate (default: {count})"
        )
    for name in ("run", "search", "evaluate"):
        pieces[name].add_argument(
            "--calib-images", type=positive_int, default=8192, help="images per subnet (default: 8192)"
        )
    pieces["run"].add_argument(
        "--probe-steps", type=positive_int, default=40, help="steps to measure before training (default: 40)"
    )
    pieces["run"].add_argument(
        "--reserve",
        type=positive_float,
        default=90.0,
        metavar="SECONDS",
        help="time kept for search and evaluation after training (default: 90)",
    )
    pieces["package"].add_argument("-o", "--output", type=Path, help="output folder (default: that of the package)")


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; returns its exit code."""
    parser, actions = make_parser()
    return run_command(parser, lambda arguments: actions[arguments.piece](arguments), argv)


if __name__ == "__main__":
    sys.exit(main())
