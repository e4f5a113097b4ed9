"""``alphanet-train``: from a recipe to a supernet."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from alphanet_zoo.cli.command import CommandParser, run_command

EPILOG = """examples:
  alphanet-train --config digits
  alphanet-train --config digits output=runs/mine optim.lr=0.1 max_steps=200
  alphanet-train --config my_recipe.yaml --print-config

The output folder gets config.yaml, log.jsonl, checkpoints/step-<n>/ and final/model.safetensors. The same command
again goes on where the last one stopped. Ctrl-C (exit code 130) and SIGTERM (143) save a checkpoint first."""


def make_parser() -> CommandParser:
    """The command's parser."""
    parser = CommandParser("alphanet-train", "Train a supernet from a recipe, or go on with a run.", epilog=EPILOG)
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a shipped recipe's name, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the recipe's")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and do nothing else")
    return parser


def train_command(arguments: argparse.Namespace) -> int:
    """Resolves the config and trains."""
    from alphanet_zoo.train.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    if arguments.print_config:
        sys.stdout.write(config.to_yaml())
        return 0
    from alphanet_zoo.train.loop import train

    result = train(config)
    if result.model is None:
        assert result.signal is not None
        print(f"stopped after step {result.step}; the same command goes on from there", file=sys.stderr)
        return 128 + result.signal
    print(f"{result.model} ({result.step} steps)")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(make_parser(), train_command, argv)


if __name__ == "__main__":
    sys.exit(main())
