"""``alphanet verify-server``: compares the results of a running model server with an exported file."""

from __future__ import annotations

import argparse
from pathlib import Path

from alphanet_zoo.cli.arguments import check_place, existing_path, positive_float, positive_int
from alphanet_zoo.cli.command import CommandParser, say
from alphanet_zoo.errors import UsageError

EPILOG = """examples:
  %(prog)s alphanet_a4.onnx --server http://localhost:8000
  %(prog)s alphanet_a4.onnx --server http://localhost:8000 --data imagenet/val --limit 100

Exit codes: 3 if the server's logits differ from those of the file; 1 if it cannot be reached, or answers with an
error; 2 for a wrong command line."""


def make_parser(prog: str = "alphanet verify-server") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(
        prog, "Compare the logits of a KServe v2 server, such as Triton, with those of an exported file.", epilog=EPILOG
    )
    add = parser.add_argument
    add("model", type=existing_path, metavar="MODEL.onnx", help="the file that the server should run")
    add("--server", required=True, metavar="URL", help="address of the server: http://host:port")
    add("--server-model", metavar="NAME", help="name of the model on the server (default: the name in the file)")
    add("--data", metavar="FOLDER", help="images, one folder per class (default: 8 synthetic images)")
    add("--limit", type=positive_int, metavar="N", help="use N of the images, evenly spread")
    add("--tolerance", type=positive_float, metavar="ERROR", help="maximum relative error of logits (default: 2e-5)")
    add("--json", type=Path, metavar="PATH", help="also write the result to this .json file")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Compares, writes the result, prints it, and raises if the server differs."""
    if arguments.model.is_dir():
        raise UsageError(f"{str(arguments.model)!r} is a folder; pass an ONNX file that alphanet export wrote")
    from alphanet_export.onnx_model import check_pixel_input

    check_pixel_input(arguments.model)  # Loads no torch.
    if arguments.limit is not None and arguments.data is None:
        raise UsageError("--limit requires --data")
    if arguments.data is not None and not Path(arguments.data).is_dir():
        raise UsageError(f"{arguments.data!r} is not a folder; pass one that has a folder of images for each class")
    if arguments.json is not None:
        if arguments.json.suffix.lower() != ".json":
            raise UsageError(f"--json {str(arguments.json)!r} must end in .json")
        check_place(arguments.json, "--json")
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
    lines = [report.to_text().rstrip("\n")]
    if arguments.json is not None:
        report.write(arguments.json)
        lines.append(f"wrote {arguments.json}")
    say("\n".join(lines))
    report.check()
    return 0
