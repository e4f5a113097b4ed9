"""``alphanet verify``: from an exported file to a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alphanet_export.formats import FORMATS, format_of
from alphanet_export.verify.report import PAGE_ENDINGS
from alphanet_zoo.cli.arguments import (
    check_place,
    check_places,
    existing_path,
    percentage,
    positive_float,
    positive_int,
)
from alphanet_zoo.cli.command import CommandParser, deprecated, run_command, say, stages
from alphanet_zoo.errors import UsageError

EPILOG = """examples:
  %(prog)s classifier.onnx --reference alphanet_c10_m
  %(prog)s alphanet_a4.onnx --reference alphanet_a4 --weights a4.safetensors --data imagenet/val \\
      --labels-by-position --min-top1 79.5
  %(prog)s best.onnx --reference best.safetensors --report report.html
  %(prog)s alphanet_a0.onnx --threads 1 --max-latency-ms 40
  %(prog)s new.onnx --vs old.onnx --max-ratio 1.02
  %(prog)s best.xml --reference best.safetensors --data imagenet/val
  %(prog)s other.pt2 --reference best.safetensors --preprocessing preprocessing.json

The file runs in the runtime of its format: ONNX Runtime, OpenVINO (.xml), ExecuTorch (.pte), PyTorch (.pt2) or
AOTInductor (.aoti.pt2). The report is also written beside the file: to <stem>.verify.json for ONNX, to
<file name>.verify.json for other formats.

Exit codes: 3 if the file does not compute what its reference computes; else 4 if top-1 is below --min-top1; else 5 if
ONNX Runtime fuses less of the graph than it must, or a time is above its maximum. 1 for a corrupt file, 2 for a wrong
command line, 6 for a missing package.

See also: alphanet verify-server for a model server, alphanet compare for a table of models."""

_REQUIRED = (
    ("weights", "reference"),
    ("calib_data", "reference"),
    ("preprocessing", "reference"),
    ("min_top1", "data"),
    ("limit", "data"),
    ("max_ratio", "vs"),
)
"""Options, and the option that each requires."""
_ENDINGS = ", ".join(each.ending for each in FORMATS.values() if each.runs_here)


def make_parser(prog: str = "alphanet-verify") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(
        prog,
        "Measure an exported file: parity with PyTorch, accuracy, latency, peak memory; for ONNX, the graph.",
        epilog=EPILOG,
    )
    parser.add_argument("model", type=_exported_path, metavar="MODEL", help=f"a file of alphanet export: {_ENDINGS}")
    _add_measures(parser)
    _add_times(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--report", type=Path, metavar="PATH", help="also write a report: .html, .md or .json")
    group.add_argument("--json", type=Path, metavar="PATH", help="file of the JSON report (default: "
                       "beside the model)")  # fmt: skip
    group.add_argument("--stamp", action="store_true", help="write the verification into the file's metadata if it "
                       "passes")  # fmt: skip
    return parser


def _exported_path(text: str) -> Path:
    """An argparse type: a path that exists, not the name of a model."""
    if text.isidentifier() and not Path(text).exists():  # A file has an ending. The names load NumPy.
        from alphanet_zoo.zoo.names import is_name

        if is_name(text):
            raise UsageError(f"{text} is a model, not an exported file; alphanet eval {text} --data FOLDER measures "
                             f"its accuracy, and alphanet export {text} writes a file")  # fmt: skip
    return existing_path(text)


def _add_measures(parser: CommandParser) -> None:
    """Adds the options of parity and accuracy."""
    add = parser.add_argument_group("parity").add_argument
    add("--reference", metavar="NAME|PATH", help="the network that the file was exported from: the name of a model, a "
        ".safetensors file, a save_pretrained folder, the folder of a training run, or the published checkpoint "
        "(default: parity with PyTorch is not measured)")  # fmt: skip
    add("--weights", metavar="PATH|REPO|random", help="weights of a --reference that is the name of a model")
    add("--calib-data", metavar="FOLDER", help="the images that the file was calibrated on when it was exported, if "
        "the reference was not calibrated on them")  # fmt: skip
    add("--preprocessing", type=existing_path, metavar="FILE.json", help="for a file without metadata: its input_size, "
        "resize_size, interpolation, mean and std")  # fmt: skip
    add(
        "--tolerance",
        type=positive_float,
        metavar="ERROR",
        help="maximum relative error of the logits (default: 2e-5; int8: by signal-to-noise ratio)",
    )
    add = parser.add_argument_group("accuracy").add_argument
    add("--data", metavar="FOLDER", help="images, one folder per class: for accuracy, and for parity instead of 8 "
        "synthetic images")  # fmt: skip
    add("--limit", type=positive_int, metavar="N", help="use N of the images, evenly spread")
    add("--parity-only", action="store_true", help="use --data for parity only; its folders need not be the model's "
        "classes")  # fmt: skip
    add("--labels-by-position", action="store_true", help="class i of --data is output i of the model, whatever their "
        "names (default: matched by name, unless the model has no labels)")  # fmt: skip
    add("--corruptions", action="store_true", help="also measure top-1 under 8 corruptions of 5 severities each; takes "
        "41 times as long as the accuracy alone, see --limit")  # fmt: skip
    add("--thumbnails", action="store_true", help="include thumbnails of the most confident mistakes in the HTML "
        "report; without this option a report contains no pixels")  # fmt: skip
    add("--min-top1", type=percentage, metavar="PERCENT", help="minimum top-1; below it the exit code is 4")


def _add_times(parser: CommandParser) -> None:
    """Adds the options of latency and of the graph."""
    add = parser.add_argument_group("times").add_argument
    add("--threads", type=positive_int, metavar="N", help="threads per operator (default: the physical cores)")
    add("--batch", type=positive_int, default=1, metavar="N", help="images per run (default: 1)")
    add("--repeats", type=positive_int, default=50, metavar="N", help="minimum number of timed runs (default: 50)")
    add("--seconds", type=positive_float, default=3.0, metavar="S", help="minimum time to measure (default: 3)")
    add("--starts", type=positive_int, default=3, metavar="N", help="new processes whose start is timed (default: 3)")
    add("--max-latency-ms", type=positive_float, metavar="MS", help="maximum median; above it the exit code is 5")
    add("--vs", type=existing_path, metavar="OTHER", help="measure the ratio of times to another file, both "
        "measured alternately")  # fmt: skip
    add("--max-ratio", type=positive_float, metavar="RATIO", help="maximum ratio; above it the exit code is 5")
    add("--any-graph", action="store_true", help="report missing fusions of ONNX Runtime without failing")


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes the report, prints it, and raises if the file failed."""
    _check(arguments)
    from alphanet_export.verify.verification import STAGES, Settings, stamp_report, verify_model

    json_path = arguments.json or format_of(arguments.model).report_path(arguments.model)
    check_places({"--json": json_path, "--report": arguments.report})
    settings = Settings(
        limit=arguments.limit,
        parity_only=arguments.parity_only,
        labels_by_position=arguments.labels_by_position,
        tolerance=arguments.tolerance,
        min_top1=arguments.min_top1,
        max_latency_ms=arguments.max_latency_ms,
        threads=arguments.threads,
        batch=arguments.batch,
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        starts=arguments.starts,
        max_ratio=arguments.max_ratio,
        any_graph=arguments.any_graph,
        thumbnails=arguments.thumbnails,
        corruptions=arguments.corruptions,
    )
    with stages(arguments.prog, STAGES) as progress:
        report = verify_model(
            arguments.model,
            reference=arguments.reference,
            weights=arguments.weights,
            preprocessing=arguments.preprocessing,
            calib_data=arguments.calib_data,
            data=arguments.data,
            versus=arguments.vs,
            settings=settings,
            progress=progress,
        )
    changed = []
    if arguments.stamp and not report.failures:
        report = stamp_report(report)
        changed.append(f"stamped {arguments.model}")
    for path in filter(None, (json_path, arguments.report)):
        report.write(path)
        changed.append(f"wrote {path}")
    say(report.to_text() + "\n".join(changed))
    report.check()
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuses a command line that cannot work, before anything heavy is loaded."""
    form = format_of(arguments.model)
    if form.name != "onnx" and arguments.stamp:
        raise UsageError(f"--stamp requires an ONNX file, not {arguments.model}")
    for flag, required in _REQUIRED:
        if getattr(arguments, flag) is not None and getattr(arguments, required) is None:
            raise UsageError(f"--{flag.replace('_', '-')} requires --{required}")
    if arguments.vs is not None:
        format_of(arguments.vs)
    if arguments.parity_only and (arguments.data is None or arguments.min_top1 is not None):
        raise UsageError("--parity-only requires --data, and cannot be used with --min-top1")
    for flag in ("corruptions", "thumbnails"):
        if getattr(arguments, flag) and (arguments.data is None or arguments.parity_only):
            raise UsageError(f"--{flag} requires --data, and cannot be used with --parity-only")
    if arguments.thumbnails and (arguments.report is None or arguments.report.suffix.lower() not in (".html", ".htm")):
        raise UsageError("--thumbnails requires an HTML report; pass --report FILE.html")
    for flag in ("data", "calib_data"):
        folder = getattr(arguments, flag)
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"{folder!r} is not a folder; pass one that has a folder of images for each class")
    if arguments.repeats < 2:
        raise UsageError("--repeats is 1; pass at least 2")
    for flag, endings in (("report", PAGE_ENDINGS), ("json", (".json",))):
        path = getattr(arguments, flag)
        if path is not None and path.suffix.lower() not in endings:
            raise UsageError(f"--{flag} {str(path)!r} must end in {', '.join(endings)}")
    check_places({"--json": arguments.json, "--report": arguments.report})
    if arguments.stamp:
        check_place(arguments.model, "--stamp")


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet-verify``; returns its exit code."""
    from alphanet_zoo.cli.main import main as alphanet

    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--all" in arguments:
        deprecated("alphanet-verify --all", "alphanet compare")
        return alphanet(["compare", *(word for word in arguments if word != "--all")])
    flags = [word.partition("=")[0] for word in arguments]
    if "--server" in flags:
        deprecated("alphanet-verify --server", "alphanet verify-server")
        return alphanet(["verify-server", *arguments])
    return run_command(make_parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
