"""The options and the work of ``alphanet-verify --all``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alphanet_export.verify.report import DEFAULT_RUNTIMES, PAGE_ENDINGS, RUNTIMES
from alphanet_zoo.cli.command import CommandParser, check_place
from alphanet_zoo.errors import UsageError

DEFAULT_BATCH = 8
_TABLE_ONLY = ("runtimes", "models", "output")
_FILE_ONLY = ("model", "reference", "weights", "calib_data", "preprocessing", "tolerance", "data", "limit",
              "parity_only", "min_top1", "max_latency_ms", "vs", "max_ratio", "any_graph", "report", "json", "stamp",
              "server", "server_model")  # fmt: skip


def table_options(parser: CommandParser) -> None:
    """Adds the options of the table."""
    add = parser.add_argument_group("the table, in place of MODEL.onnx (with the options of times)").add_argument
    add("--all", action="store_true", help="measure the ImageNet family against classifiers of timm")
    add(
        "--runtimes",
        metavar="NAMES",
        help=f"with --all: some of {','.join(RUNTIMES)} (default {','.join(DEFAULT_RUNTIMES)})",
    )
    add("--models", metavar="NAMES", help="with --all: some models, such as 'alphanet_a*,efficientnet_b0'")
    add("-o", "--output", type=Path, metavar="PATH", help="with --all: also write the table: .html, .md or .json")


def refuse_table_options(arguments: argparse.Namespace) -> None:
    """Refuses what goes with ``--all`` alone.

    Raises:
        UsageError: It is given.
    """
    given = [name for name in _TABLE_ONLY if getattr(arguments, name) is not None]
    if given:
        raise UsageError(f"--{given[0]} goes with --all")


def table_command(arguments: argparse.Namespace) -> int:
    """Measures, prints and writes the table."""
    runtimes = _checked(arguments)
    from alphanet_export.verify.report.compare import contenders, measure_table

    table = measure_table(
        contenders((arguments.models or "*").split(",")),
        runtimes,
        threads=arguments.threads,
        batch=arguments.batch or DEFAULT_BATCH,
        rounds=arguments.repeats,
        seconds=arguments.seconds,
        tell=lambda words: print(f"alphanet-verify: {words}", file=sys.stderr, flush=True),
    )
    sys.stdout.write(table.to_text())
    if arguments.output is not None:
        table.write(arguments.output)
        print(f"wrote {arguments.output}")
    return 0


def _checked(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The runtimes; refuses a command line that cannot work."""
    given = [name for name in _FILE_ONLY if getattr(arguments, name) not in (None, False)]
    if given:
        flag = "MODEL.onnx" if given[0] == "model" else f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{flag} goes with one file, not with --all")
    runtimes = tuple(arguments.runtimes.split(",")) if arguments.runtimes else DEFAULT_RUNTIMES
    for name in runtimes:
        if name not in RUNTIMES or runtimes.count(name) > 1:
            raise UsageError(f"--runtimes {arguments.runtimes!r}: give some of {','.join(RUNTIMES)}, each once")
    path = arguments.output
    if path is not None and (path.suffix.lower() not in PAGE_ENDINGS or path.is_dir()):
        raise UsageError(f"--output {str(path)!r} must be a file that ends in {', '.join(PAGE_ENDINGS)}")
    if path is not None:
        check_place(path, "--output")
    if arguments.repeats < 2:
        raise UsageError("--repeats is 1; give at least 2")
    return runtimes
