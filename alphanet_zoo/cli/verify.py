"""``alphanet-verify``: from an exported file to a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alphanet_export.formats import FORMATS, format_of
from alphanet_export.verify.report import PAGE_ENDINGS
from alphanet_zoo.cli.command import (
    CommandParser,
    check_place,
    existing_path,
    percentage,
    positive_float,
    positive_int,
    run_command,
)
from alphanet_zoo.cli.verify_server import refuse_server_options, server_command, server_options
from alphanet_zoo.cli.verify_table import refuse_table_options, table_command, table_options
from alphanet_zoo.errors import UsageError

EPILOG = """examples:
  alphanet-verify alphanet_a4.onnx --reference alphanet_a4 --weights a4.safetensors --data imagenet/val --min-top1 79.5
  alphanet-verify best.onnx --reference best.safetensors --report report.html
  alphanet-verify alphanet_a0.onnx --threads 1 --max-latency-ms 40
  alphanet-verify best.xml --reference best.safetensors --data imagenet/val
  alphanet-verify foreign.pt2 --reference best.safetensors --preprocessing preprocessing.json
  alphanet-verify new.onnx --vs old.onnx --max-ratio 1.02
  alphanet-verify --all --threads 1 -o table.html
  alphanet-verify alphanet_a4.onnx --server http://localhost:8000

The file is run in the runtime of its format: ONNX Runtime, OpenVINO (.xml), ExecuTorch (.pte), PyTorch (.pt2) or
AOTInductor (.aoti.pt2). The report is also written beside the file: to <stem>.verify.json for ONNX, otherwise to
<file name>.verify.json.

Exit codes: 3 if the file does not compute what its reference computes, else 4 if top-1 is below --min-top1, else 5 if
ONNX Runtime fuses less of the graph than it must or a time is above its target; 1 for a corrupt file, 2 for a wrong
command line, 6 for a missing package."""

_NEEDS = (
    ("weights", "reference"),
    ("calib_data", "reference"),
    ("preprocessing", "reference"),
    ("min_top1", "data"),
    ("limit", "data"),
    ("max_ratio", "vs"),
)
_ENDINGS = ", ".join(each.ending for each in FORMATS.values() if each.runs_here)


def make_parser() -> CommandParser:
    """The command's parser."""
    parser = CommandParser(
        "alphanet-verify",
        "Measure an exported file: parity with PyTorch, accuracy, latency, peak memory; for ONNX, the graph.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("model", type=existing_path, nargs="?", metavar="MODEL", help=f"a file that alphanet-export wrote: {_ENDINGS}")
    _add_measures(parser)
    _add_times(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--report", type=Path, metavar="PATH", help="also write a page: .html, .md or .json")
    group.add_argument("--json", type=Path, metavar="PATH", help="path of the JSON (default: beside the file)")
    group.add_argument("--stamp", action="store_true", help="write the verification into the file's metadata, last, "
                       "once it has passed")  # fmt: skip
    server_options(parser)
    table_options(parser)
    return parser


def _add_measures(parser: CommandParser) -> None:
    """Adds the options of what is measured, and how."""
    add = parser.add_argument_group("parity").add_argument
    add("--reference", metavar="NAME|PATH", help="the network it was exported from: a model's name, a .safetensors "
        "file, a save_pretrained folder or the published checkpoint; without it, parity with PyTorch is not "
        "measured")  # fmt: skip
    add("--weights", metavar="PATH|REPO|random", help="weights of a --reference that is a name")
    add("--calib-data", metavar="FOLDER", help="the images that the file was calibrated on at export, where the "
        "reference was not calibrated on them")  # fmt: skip
    add("--preprocessing", type=existing_path, metavar="FILE.json", help="for a file without metadata: its input_size, "
        "resize_size, interpolation, mean and std")  # fmt: skip
    add(
        "--tolerance",
        type=positive_float,
        metavar="ERROR",
        help="largest relative error of the logits (default 2e-5; int8: signal to noise)",
    )
    add = parser.add_argument_group("accuracy").add_argument
    add("--data", metavar="FOLDER", help="images, one folder a class: for accuracy, and for parity in place of 8 "
        "synthetic ones")  # fmt: skip
    add("--limit", type=positive_int, metavar="N", help="take N of the images, spread evenly")
    add("--parity-only", action="store_true", help="take --data for parity alone; its folders need not be the model's "
        "classes")  # fmt: skip
    add("--min-top1", type=percentage, metavar="PERCENT", help="floor of top-1, else the exit code is 4")


def _add_times(parser: CommandParser) -> None:
    """Adds the options of times and of the graph."""
    add = parser.add_argument_group("times").add_argument
    add("--threads", type=positive_int, metavar="N", help="threads within an operator (default: the physical cores)")
    add("--batch", type=positive_int, metavar="N", help="images a run (default 1; with --all 8, for throughput)")
    add("--repeats", type=positive_int, default=50, metavar="N", help="runs to time, at least (default 50)")
    add("--seconds", type=positive_float, default=3.0, metavar="S", help="time to spend, at least (default 3)")
    add("--starts", type=positive_int, default=3, metavar="N", help="fresh processes to time the start of (default 3)")
    add("--max-latency-ms", type=positive_float, metavar="MS", help="target of the median, else the exit code is 5")
    add("--vs", type=existing_path, metavar="OTHER", help="time it in turns with another file: their ratio")
    add("--max-ratio", type=positive_float, metavar="RATIO", help="target of that ratio, else the exit code is 5")
    add("--any-graph", action="store_true", help="report, without failing, where ONNX Runtime fuses less than it must")


def verify_command(arguments: argparse.Namespace) -> int:
    """Measures, prints and stores the report, and fails where it does."""
    if arguments.all:
        return table_command(arguments)
    _check(arguments)
    if arguments.server is not None:
        return server_command(arguments)
    from alphanet_export.verify.verification import Settings, stamp_report, verify_model

    settings = Settings(
        limit=arguments.limit,
        parity_only=arguments.parity_only,
        tolerance=arguments.tolerance,
        min_top1=arguments.min_top1,
        max_latency_ms=arguments.max_latency_ms,
        threads=arguments.threads,
        batch=arguments.batch or 1,
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        starts=arguments.starts,
        max_ratio=arguments.max_ratio,
        any_graph=arguments.any_graph,
    )
    json_path = arguments.json or format_of(arguments.model).report_path(arguments.model)
    check_place(json_path, "--json")
    report = verify_model(
        arguments.model,
        reference=arguments.reference,
        weights=arguments.weights,
        preprocessing=arguments.preprocessing,
        calib_data=arguments.calib_data,
        data=arguments.data,
        versus=arguments.vs,
        settings=settings,
    )
    stamped = arguments.stamp and not report.failures
    if stamped:
        report = stamp_report(report)
    sys.stdout.write(report.to_text())
    if stamped:
        print(f"stamped {arguments.model}")
    for path in filter(None, (json_path, arguments.report)):
        report.write(path)
        print(f"wrote {path}")
    sys.stdout.flush()
    report.check()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(make_parser(), verify_command, argv)


def _check(arguments: argparse.Namespace) -> None:
    """Refuses a command line that cannot work, before anything heavy is loaded."""
    refuse_table_options(arguments)
    refuse_server_options(arguments)
    if arguments.model is None:
        raise UsageError("MODEL is required: a file that alphanet-export wrote; or pass --all for the table")
    form = format_of(arguments.model)
    for flag in ("stamp", "server"):
        if form.name != "onnx" and getattr(arguments, flag):
            raise UsageError(f"--{flag} requires an ONNX file, not {arguments.model}")
    for flag, needed in _NEEDS:
        if getattr(arguments, flag) is not None and getattr(arguments, needed) is None:
            raise UsageError(f"--{flag.replace('_', '-')} needs --{needed}")
    if arguments.vs is not None:
        format_of(arguments.vs)
    if arguments.parity_only and (arguments.data is None or arguments.min_top1 is not None):
        raise UsageError("--parity-only needs --data, and goes without --min-top1")
    for flag in ("data", "calib_data"):
        folder = getattr(arguments, flag)
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"{folder!r} is no folder; give one with a folder of images for each class")
    if arguments.repeats < 2:
        raise UsageError("--repeats is 1; give at least 2")
    for flag, endings in (("report", PAGE_ENDINGS), ("json", (".json",))):
        path = getattr(arguments, flag)
        if path is None:
            continue
        if path.suffix.lower() not in endings:
            raise UsageError(f"--{flag} {str(path)!r} must end in {', '.join(endings)}")
        if path.is_dir():
            raise UsageError(f"--{flag} {str(path)!r} is a folder; give a file")
        check_place(path, f"--{flag}")


if __name__ == "__main__":
    sys.exit(main())
