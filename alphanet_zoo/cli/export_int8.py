"""``alphanet-export --quantize int8``: its options, and what it tells."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_zoo.cli.command import CommandParser, percentage
from alphanet_zoo.errors import UsageError

if TYPE_CHECKING:
    from alphanet_export.build import Source
    from alphanet_export.freeze import FrozenNet
    from alphanet_export.quantize.writing import WrittenInt8

FORMATS = ("onnx", "openvino")
"""The formats that can be int8."""
DEFAULT_MAX_DROP = 0.5


def int8_options(parser: CommandParser) -> None:
    """Adds the options on int8."""
    group = parser.add_argument_group("int8 (docs/quantize.md)")
    group.add_argument("--quantize", choices=("int8",),
                       help="write int8: ONNX Runtime's QDQ, or NNCF's for OpenVINO; calibrated and judged on "
                            "--calib-data, and written only where the accuracy is kept")  # fmt: skip
    group.add_argument("--max-drop", type=percentage, metavar="POINTS",
                       help=f"points of top-1 that int8 may lose (default: {DEFAULT_MAX_DROP})")  # fmt: skip
    group.add_argument("--labels-by-position", action="store_true",
                       help="class i of --calib-data is output i of the net, whatever their names (default: matched "
                            "by name, unless the net has no labels)")  # fmt: skip
    group.add_argument("--reduce-range", action=argparse.BooleanOptionalAction, default=None,
                       help="weights of 7 bits, for CPUs without VNNI, whose 8-bit kernels saturate (default: as "
                            "this CPU needs)")  # fmt: skip


def check_int8_options(args: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Refuses what cannot work, before anything heavy is loaded.

    Raises:
        UsageError: Names it.
        MissingDependencyError: NNCF is wanted and not installed.
    """
    if args.quantize is None:
        if args.max_drop is not None or args.reduce_range is not None or args.labels_by_position:
            raise UsageError("--max-drop, --labels-by-position and --reduce-range require --quantize int8")
        return
    if args.calib_data is None:
        raise UsageError("--quantize int8 needs images to calibrate on and to judge by; give --calib-data FOLDER")
    others = [name for name in formats if name not in FORMATS]
    if others:
        raise UsageError(f"--quantize int8 goes with --format {' and '.join(FORMATS)}, not with {others[0]}")
    if args.web is not None or args.model_repository is not None:
        raise UsageError("--quantize int8 goes with neither --web nor --model-repository; give a file with -o")
    if "openvino" in formats:
        from alphanet_export.packages import require_package

        require_package("nncf", "openvino")


def write_int8_files(
    args: argparse.Namespace, frozen: FrozenNet, source: Source, files: Mapping[str, Path]
) -> WrittenInt8:
    """Quantises and writes; notes on the files go to standard error."""
    from alphanet_export.quantize.writing import write_int8
    from alphanet_zoo.data.folder import FolderSource

    written = write_int8(
        frozen, FolderSource(args.calib_data), source, **files,
        max_drop=DEFAULT_MAX_DROP if args.max_drop is None else args.max_drop, reduce_range=args.reduce_range,
        opset=args.opset or 18, verify=not args.skip_verify, seed=args.seed,
        labels_by_position=args.labels_by_position,
    )  # fmt: skip
    for name, log in written.logs.items():
        for note in log.notes():
            print(f"alphanet-export: note: {name}: {note}", file=sys.stderr)
    return written


def int8_rows(written: WrittenInt8) -> dict[str, str]:
    """Lines of the summary: how int8 was judged, and the parity of the graph that it was made from."""
    rows = {"parity": "not measured (--skip-verify)"}
    if written.parity is not None:
        rows["parity"] = f"largest relative error {written.parity.max_relative_error:.1e} before int8, in ONNX Runtime"
    for name, log in written.logs.items():
        rows[name] = f"int8: {log.verdict}"
    return rows
