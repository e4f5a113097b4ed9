"""``alphanet resume``: continues the training run in a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from alphanet_zoo.cli.arguments import existing_path
from alphanet_zoo.cli.command import CommandParser, run_command
from alphanet_zoo.cli.train import SettingsParser, add_run_options, prepare_threads, train
from alphanet_zoo.errors import UsageError

EPILOG = """examples:
  %(prog)s runs/mine
  %(prog)s runs/mine max_steps=20000
  torchrun --nproc-per-node 8 -m alphanet_zoo.cli.resume runs/mine

The run's own config.yaml is its config; the folder may have been moved. Settings that do not affect the weights
of a step may change, such as max_steps, validation.* and log.*."""


def make_parser(prog: str = "alphanet resume") -> CommandParser:
    """The command's parser."""
    parser = SettingsParser(prog, "Continue the training run in a folder from its last checkpoint.", epilog=EPILOG)
    parser.add_argument("run", type=existing_path, metavar="RUN", help="the output folder of a training run")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace those of the run")
    add_run_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Reads the run's config and trains."""
    from alphanet_zoo.train.config import load_config

    path = arguments.run / "config.yaml"
    if not path.is_file():
        raise UsageError(
            f"{arguments.run} is not a training run (config.yaml not found). Pass the output folder of alphanet train."
        )
    config = load_config(str(path), [*arguments.settings, f"output={arguments.run}"])
    prepare_threads(arguments.threads)
    return train(arguments, config)


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet resume`` as a module, for torchrun; returns its exit code."""
    return run_command(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
