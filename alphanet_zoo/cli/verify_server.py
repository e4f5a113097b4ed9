"""The options and the work of ``alphanet-verify MODEL.onnx --server``."""

from __future__ import annotations

import argparse
import sys

from alphanet_zoo.cli.command import CommandParser
from alphanet_zoo.errors import UsageError

_FILE_ONLY = ("reference", "weights", "calib_data", "parity_only", "labels_by_position", "min_top1", "threads", "batch",
              "max_latency_ms", "vs", "max_ratio", "any_graph", "report", "stamp")  # fmt: skip


def server_options(parser: CommandParser) -> None:
    """Adds the options of a server."""
    add = parser.add_argument_group(
        "a running server (with --data, --limit, --tolerance and --json; nothing else is measured)"
    ).add_argument
    add("--server", metavar="URL", help="compare the logits of a KServe v2 server (http://host:port) with the file's")
    add("--server-model", metavar="NAME", help="what the server calls the model (default: the name in the file)")


def refuse_server_options(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go together.

    Raises:
        UsageError: Names them.
    """
    if arguments.server is None and arguments.server_model is not None:
        raise UsageError("--server-model goes with --server")
    given = [name for name in _FILE_ONLY if getattr(arguments, name) not in (None, False)]
    if arguments.server is not None and given:
        raise UsageError(f"--{given[0].replace('_', '-')} measures the file alone; leave it or --server out")


def server_command(arguments: argparse.Namespace) -> int:
    """Compares, prints, stores where ``--json`` says, and fails where the server differs."""
    from alphanet_export.verify.measure.parity import TOLERANCE
    from alphanet_export.verify.measure.server_parity import verify_server

    report = verify_server(
        arguments.model,
        arguments.server,
        arguments.server_model,
        data=arguments.data,
        limit=arguments.limit,
        tolerance=arguments.tolerance or TOLERANCE,
    )
    sys.stdout.write(report.to_text())
    if arguments.json is not None:
        report.write(arguments.json)
        print(f"wrote {arguments.json}")
    sys.stdout.flush()
    report.check()
    return 0
