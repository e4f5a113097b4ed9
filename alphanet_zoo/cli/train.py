"""``alphanet-train``: from a recipe to a supernet."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_zoo.cli.command import CommandParser, existing_path, positive_float, run_command
from alphanet_zoo.errors import AlphaNetError, UsageError

if TYPE_CHECKING:
    from alphanet_zoo.train.config import TrainConfig

EPILOG = """examples:
  alphanet-train --config digits
  alphanet-train --config digits output=runs/mine optim.lr=0.1 max_steps=200
  alphanet-train --config my_recipe.yaml --print-config
  alphanet-train --config my_recipe.yaml --dry-run      time and memory from the first 20 steps
  torchrun --nproc-per-node 8 -m alphanet_zoo.cli.train --config my_recipe.yaml

The output folder gets config.yaml, log.jsonl, checkpoints/step-<n>/ and final/model.safetensors. The same command
again goes on where the last one stopped. Ctrl-C (exit code 130) and SIGTERM (143) save a checkpoint first.

Two more commands, each with its own --help:
  alphanet-train verify-data images/ [--write-manifest | --check]
  alphanet-train export-supernet runs/mine -o supernet.safetensors"""

DRY_RUN_STEPS = 20


def make_parser() -> CommandParser:
    """The command's parser."""
    parser = CommandParser("alphanet-train", "Train a supernet from a recipe, or go on with a run.", epilog=EPILOG)
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a shipped recipe's name, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the recipe's")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and do nothing else")
    parser.add_argument(
        "--dry-run",
        type=_dry_run_steps,
        metavar="STEPS",
        help=f"time so many steps (default: {DRY_RUN_STEPS}), tell what the run would take, write nothing",
    )
    parser.add_argument(
        "--resume-anyway",
        action="store_true",
        help="go on with the run in the output folder though the settings differ from its own",
    )
    parser.add_argument(
        "--time-limit", type=positive_float, metavar="SECONDS", help="stop after so long, as SIGTERM would have it"
    )
    return parser


def _dry_run_steps(text: str) -> int:
    """An argparse type: two steps or more."""
    if not (text.isascii() and text.isdigit()) or int(text) < 2:
        raise UsageError(f"{text!r} is no number of steps; give --dry-run=STEPS with 2 or more")
    return int(text)


def train_command(arguments: argparse.Namespace) -> int:
    """Resolves the config and trains."""
    from alphanet_zoo.train.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    if arguments.print_config:
        sys.stdout.write(config.to_yaml())
        return 0
    if config.optim.kernels == "compiled":
        from alphanet_zoo.train.memory import keep_freed_memory

        keep_freed_memory()
    if arguments.dry_run is not None:
        from alphanet_zoo.train.dryrun import dry_run

        figures = dry_run(config, arguments.dry_run)
        if figures is not None:
            print(figures)
        return 0
    from alphanet_zoo.train.loop import train

    result = train(config, resume_anyway=arguments.resume_anyway, time_limit=arguments.time_limit)
    speaks = os.environ.get("RANK", "0") == "0"  # one of torchrun's processes is enough
    if result.model is None:
        assert result.signal is not None
        if speaks:
            print(f"stopped after step {result.step}; the same command goes on from there", file=sys.stderr)
        return 128 + result.signal
    if speaks:
        for name, measured in result.validation.items():
            print(f"{name}: {_described(measured)}")
        print(f"{result.model} ({result.step} steps)")
        print(f"next: {_next_command(config, result.model)}")
    return 0


def _described(figures: Mapping[str, float]) -> str:
    """The figures of a validation in words."""
    images = f"of {figures['images']:.0f} validation images"
    if "accuracy" in figures:
        return f"{figures['accuracy']:.1%} {images}"
    return f"mean average precision {figures['mean_average_precision']:.1%}, {images}"


def _next_command(config: TrainConfig, model: Path) -> str:
    """What to do with the net of a run that has ended."""
    data, quoted = config.data, shlex.quote(str(model))
    if config.finetune.weights is not None or data.source == "multilabel":
        return f"alphanet-train export-supernet {shlex.quote(config.output)} -o net.safetensors"
    folders = ["TRAIN_FOLDER", "VAL_FOLDER"]
    if data.source in ("folder", "digits"):
        folders = [shlex.quote(f"{data.root.rstrip('/')}/{part}") for part in (data.train, data.val)]
    scored = f"--hold-out {data.hold_out}" if data.hold_out else f"--data {folders[1]}"
    return f"alphanet-search --supernet {quoted} --calib-data {folders[0]} {scored} -o front.json --best best.json"


VERIFY_EPILOG = """examples:
  alphanet-train verify-data images/                    decode every image
  alphanet-train verify-data images/ --write-manifest   and write images/manifest.jsonl where all are whole
  alphanet-train verify-data images/ --check            compare every file with images/manifest.jsonl

The manifest has a JSON line a file: path, bytes, sha256, width, height. The exit code is 1 where a file is damaged,
changed, missing or not in the manifest; each is listed on standard output."""


def make_verify_parser() -> CommandParser:
    """The parser of ``alphanet-train verify-data``."""
    parser = CommandParser(
        "alphanet-train verify-data", "Check every file of a folder of images.", epilog=VERIFY_EPILOG
    )
    parser.add_argument("root", type=existing_path, metavar="ROOT", help="the folder; images at any depth are checked")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write-manifest", action="store_true", help="decode, and write the manifest if all are whole")
    action.add_argument("--check", action="store_true", help="compare with the manifest instead of decoding")
    parser.add_argument("--threads", type=int, default=0, help="files at a time (default: one a core)")
    return parser


def verify_command(arguments: argparse.Namespace) -> int:
    """Checks the folder and prints what is wrong with it."""
    if arguments.threads < 0:
        raise UsageError(f"--threads is {arguments.threads}; give a positive number, or 0 for one a core")
    from alphanet_zoo.data.manifest import MANIFEST, check_manifest, verify_images, write_manifest

    action = write_manifest if arguments.write_manifest else check_manifest if arguments.check else verify_images
    threads = arguments.threads or os.cpu_count() or 1
    report = action(arguments.root, threads=threads, progress=sys.stderr.isatty())
    for problem in report.problems:
        print(problem)
    if report.problems:
        count = f"{len(report.problems)} problem{'s' * (len(report.problems) != 1)}"
        raise AlphaNetError(f"{count} in {report.files} files of {arguments.root}: see above")
    done = f"{arguments.root / MANIFEST} written" if arguments.write_manifest else "no problems"
    print(f"{report.files} files, {sum(entry.bytes for entry in report.entries):,} bytes: {done}")
    return 0


EXPORT_EPILOG = """examples:
  alphanet-train export-supernet runs/mine -o supernet.safetensors
  alphanet-train export-supernet runs/mine --ema -o averaged.safetensors

The final net of a run that has ended, the one of its newest whole checkpoint otherwise. alphanet-search and
alphanet-export take the file."""


def make_export_parser() -> CommandParser:
    """The parser of ``alphanet-train export-supernet``."""
    parser = CommandParser(
        "alphanet-train export-supernet", "Write the net of a run to one file.", epilog=EXPORT_EPILOG
    )
    parser.add_argument("run", type=existing_path, metavar="RUN", help="the output folder of a run")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument("--ema", action="store_true", help="the exponential mean of the weights (optim.ema_decay)")
    return parser


def export_command(arguments: argparse.Namespace) -> int:
    """Writes the file and says what it is."""
    if not arguments.output.endswith(".safetensors"):
        raise UsageError(f"{arguments.output!r} does not end with .safetensors; give a file that does")
    from alphanet_zoo.train.folder import read_net
    from alphanet_zoo.zoo.files import save_net

    net, step = read_net(arguments.run, ema=arguments.ema)
    digest = save_net(net, arguments.output)
    print(f"{arguments.output} ({'final' if step is None else f'step {step}'}, sha256 {digest})")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["verify-data"]:
        return run_command(make_verify_parser(), verify_command, arguments[1:])
    if arguments[:1] == ["export-supernet"]:
        return run_command(make_export_parser(), export_command, arguments[1:])
    # argparse would take a setting that follows for the number of steps.
    arguments = [f"--dry-run={DRY_RUN_STEPS}" if text == "--dry-run" else text for text in arguments]
    return run_command(make_parser(), train_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
