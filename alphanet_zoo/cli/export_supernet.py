"""``alphanet export-supernet``: writes the network of a training run to one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from alphanet_zoo.cli.arguments import check_place, existing_path
from alphanet_zoo.cli.command import CommandParser, say
from alphanet_zoo.errors import UsageError

EPILOG = """examples:
  %(prog)s runs/mine -o supernet.safetensors
  %(prog)s runs/mine --ema -o averaged.safetensors

Writes the final network if the run has ended, otherwise that of its newest intact checkpoint. alphanet search and
alphanet export read the file."""


def make_parser(prog: str = "alphanet export-supernet") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Write the network of a training run to one file.", epilog=EPILOG)
    parser.add_argument("run", type=existing_path, metavar="RUN", help="the output folder of a training run")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument("--ema", action="store_true", help="write the moving average of the weights (optim.ema_decay)")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Writes the file."""
    if not arguments.output.endswith(".safetensors"):
        raise UsageError(f"{arguments.output!r} does not end with .safetensors; pass a file name that does")
    check_place(Path(arguments.output), "-o")
    from alphanet_zoo.zoo.files import is_run, save_net
    from alphanet_zoo.zoo.open import open_net

    if not is_run(arguments.run):
        raise UsageError(
            f"{arguments.run} is not a training run (config.yaml not found). Pass an alphanet train output folder."
        )
    opened = open_net(arguments.run, ema=arguments.ema, unfinished=True)
    digest = save_net(opened.net, arguments.output)
    say(f"{arguments.output} ({'final' if opened.step is None else f'step {opened.step}'}, sha256 {digest})")
    return 0
