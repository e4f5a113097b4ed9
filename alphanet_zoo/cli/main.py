"""``alphanet``: one command with subcommands. Only the module of the chosen subcommand is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from alphanet_zoo import __version__

COMMANDS = {
    "train": "train a supernet from a recipe",
    "resume": "continue the training run in a folder",
    "search": "find the subnets with the best accuracy for their cost",
    "profile": "measure the latency of this device, for alphanet search",
    "predict": "classify images with a model or an exported file",
    "eval": "measure the accuracy of a network on labelled images",
    "arch": "show an arch and its cost, or the archs of a Pareto front",
    "export": "write a model to files for deployment, and check each file",
    "verify": "measure an exported file: parity, accuracy, latency, memory",
    "verify-server": "compare the results of a model server with an exported file",
    "compare": "measure the ImageNet family against other classifiers",
    "convert": "convert the authors' checkpoint to a supernet file",
    "publish": "make models available by name, on this machine or on the Hub",
    "models": "list the models and where their weights are; check the cache",
    "verify-data": "check every image file in a folder",
    "export-supernet": "write the network of a training run to one file",
    "recipes": "list the training recipes, or print one",
}
"""The subcommands. The module of each has its name, with underscores: it has ``make_parser(prog)`` and ``run``."""


def help_text() -> str:
    """The text of ``alphanet --help``."""
    commands = "\n".join(f"  {name:<17}{summary}" for name, summary in COMMANDS.items())
    return (
        "usage: alphanet COMMAND [options]   ('alphanet COMMAND --help' describes it)\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n"
        "  -h, --help       print this help and exit\n"
        "  --version        print the version and exit"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns its exit code."""
    from alphanet_zoo.cli.command import note, open_missing_streams, run_command, say
    from alphanet_zoo.errors import AlphaNetError

    open_missing_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help", "--version"):
        try:
            say(f"alphanet {__version__}" if name == "--version" else help_text(), required=True)
        except AlphaNetError as error:
            note("alphanet", f"error: {error}")
            return error.exit_code
        return 0
    if name not in COMMANDS:
        note("alphanet", f"error: {_problem(name)} (see alphanet --help)")
        return 2
    module = import_module(f"alphanet_zoo.cli.{name.replace('-', '_')}")
    return run_command(module.make_parser(f"alphanet {name}"), module.run, arguments[1:])


def _problem(name: str) -> str:
    """Why ``name`` is not a command."""
    import difflib

    if not name:
        return f"a command is required: {', '.join(COMMANDS)}"
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"unknown command {name!r}{f'; did you mean {near[0]}?' if near else ''}"


if __name__ == "__main__":
    sys.exit(main())
