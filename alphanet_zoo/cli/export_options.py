"""The command line of ``alphanet-export``, checked before anything heavy is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from alphanet_export.formats import FORMATS, check_formats, parse_formats
from alphanet_zoo.cli.command import CommandParser, check_place, existing_path, natural_int, parse_macs, positive_int
from alphanet_zoo.cli.export_folders import check_folder_options, folder_options
from alphanet_zoo.cli.export_int8 import check_int8_options, int8_options
from alphanet_zoo.errors import UsageError

_EPILOG = """examples:
  alphanet-export --flops 444M --onnx                      the most accurate model within 444 M MACs
  alphanet-export --model alphanet_a4 --weights a4.safetensors -o build/
  alphanet-export --model alphanet_a4 --weights random     for timing: the weights are made up
  alphanet-export --arch arch.json --supernet supernet.safetensors --calib-data train/ -o subnet.onnx
  alphanet-export --model alphanet_a4 --weights a4.safetensors --format onnx,openvino,executorch,coreml,pt2,aoti
  alphanet-export --model alphanet_a4 --weights a4.safetensors --quantize int8 --calib-data train/ -o a4.onnx
  alphanet-export --model alphanet_a4 --weights a4.safetensors --web page/ --model-repository models/
"""

MAX_IMAGE_SIZE = 4096
"""The largest side of an exported input, in pixels: beyond it a slip of the keyboard is likelier than an image."""


def build_parser() -> CommandParser:
    """The command's parser."""
    description = "Writes a model to files, and shows that each computes what PyTorch does."
    parser = CommandParser("alphanet-export", description, epilog=_EPILOG)
    what = parser.add_argument_group("what to export (one of them)").add_mutually_exclusive_group(required=True)
    what.add_argument("--flops", type=parse_macs, metavar="BUDGET",
                      help="the most accurate published model within this many MACs (multiply-accumulates, which the "
                           "field calls FLOPs), compared at the last digit written: 444M, 0.5G")  # fmt: skip
    what.add_argument("--model", metavar="NAME", help="a model by name, such as alphanet_a4")
    what.add_argument(
        "--arch", type=existing_path, metavar="JSON", help="a subnet of --supernet, in the published form"
    )
    _add_weights(parser)
    _add_output(parser)
    int8_options(parser)
    folder_options(parser)
    return parser


def _add_weights(parser: CommandParser) -> None:
    """The options on weights and statistics."""
    group = parser.add_argument_group("weights and statistics")
    group.add_argument("--family", metavar="NAME", help="family that --flops chooses from (default: imagenet)")
    group.add_argument("--weights", metavar="PATH|REPO|random",
                       help="a .safetensors file, a save_pretrained folder, a Hub repository, or made-up values for "
                            "timing (default: the published weights)")  # fmt: skip
    group.add_argument("--supernet", type=existing_path, metavar="CKPT",
                       help="with --arch: a supernet's .safetensors, the folder of an alphanet-train run, or the "
                            "published checkpoint")  # fmt: skip
    group.add_argument("--num-classes", type=positive_int, metavar="N", help="classes that the weights must have")
    group.add_argument("--calib-data", type=existing_path, metavar="FOLDER",
                       help="training images, a folder a class, to take batch norm's statistics from; needed where "
                            "the weights come without statistics of their own")  # fmt: skip
    group.add_argument("--calib-images", type=positive_int, metavar="N",
                       help="how many of them, in batches of 256 (default: 16384, as published)")  # fmt: skip
    group.add_argument("--calib-augment", action=argparse.BooleanOptionalAction, default=None,
                       help="vary them as the published training does (default: in the ImageNet space)")  # fmt: skip


def _add_output(parser: CommandParser) -> None:
    """The options on the files."""
    group = parser.add_argument_group("files")
    group.add_argument("--format", type=parse_formats, default=(), metavar="LIST",
                       help=f"what to write, with commas between: {', '.join(FORMATS)} (default: onnx)")  # fmt: skip
    group.add_argument("--onnx", action="store_true", help="the same as --format onnx")
    group.add_argument("--pt2", action="store_true", help="the same as --format pt2: PyTorch's ExportedProgram")
    group.add_argument("-o", "--output", metavar="PATH",
                       help="a file, or a folder, existing or ending in / (default: <model>.* here)")  # fmt: skip
    group.add_argument("--img-size", type=positive_int, metavar="PIXELS",
                       help="side of the input; another than the arch's resolution is resized in the graph, as "
                            "published with 224 (default: the resolution)")  # fmt: skip
    group.add_argument("--dynamic-batch", action="store_true", help="take any number of images (default: one)")
    group.add_argument("--opset", type=positive_int, metavar="N", help="ONNX opset (default: 18)")
    group.add_argument("--skip-verify", action="store_true", help="do not compare the files with PyTorch")
    group.add_argument("--seed", type=natural_int, default=0, metavar="N",
                       help="of the calibration's draws and the images that parity is measured on")  # fmt: skip


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses options that do not go together.

    Raises:
        UsageError: Names them.
        MissingDependencyError: A format needs a package that is not installed.
        MissingProgramError: A format needs a compiler that is not installed.
    """
    _check_source(args)
    _check_statistics(args)
    _check_files(args)


def _check_source(args: argparse.Namespace) -> None:
    """The options on what to export."""
    if (args.arch is None) != (args.supernet is None):
        raise UsageError("--arch and --supernet go together: a subnet's arch, and the supernet with its weights")
    if args.arch is not None and args.weights is not None:
        raise UsageError("--weights goes with --model or --flops; with --arch the weights are --supernet's")
    if args.family is not None and args.flops is None:
        raise UsageError("--family goes with --flops")


def _check_statistics(args: argparse.Namespace) -> None:
    """The options on calibration."""
    if args.calib_data is None and (args.calib_images is not None or args.calib_augment is not None):
        raise UsageError("--calib-images and --calib-augment go with --calib-data")
    if args.calib_data is not None and not args.calib_data.is_dir():
        raise UsageError(f"{args.calib_data} is no folder; give one with a folder a class, each with its images")
    if args.calib_data is not None and args.weights == "random":
        raise UsageError("--weights random is for timing; leave --calib-data out")


def _check_files(args: argparse.Namespace) -> None:
    """The options on the files, as far as they can be checked without the arch."""
    formats = wanted_formats(args)
    if args.img_size is not None and args.img_size > MAX_IMAGE_SIZE:
        raise UsageError(f"--img-size {args.img_size} is more than this network can mean; give up to {MAX_IMAGE_SIZE}")
    if args.opset is not None and "onnx" not in formats:
        raise UsageError(f"--opset goes with --format onnx, not with --format {','.join(formats)}")
    if args.opset is not None and not 18 <= args.opset <= 24:
        raise UsageError(f"opset {args.opset} is not supported; give 18 to 24")
    check_formats(formats, dynamic_batch=args.dynamic_batch)
    check_folder_options(args, formats)
    check_int8_options(args, formats)


def wanted_formats(args: argparse.Namespace) -> tuple[str, ...]:
    """The formats asked for, in the order of `FORMATS`; ONNX where none is."""
    asked = {*args.format, *(name for name in ("onnx", "pt2") if getattr(args, name))}
    return tuple(name for name in FORMATS if name in (asked or {"onnx"}))


def output_files(output: str | None, name: str, formats: Iterable[str]) -> dict[str, Path]:
    """The path of each format that ``-o`` means for a model called ``name``.

    Raises:
        UsageError: The name's ending is not that of a format asked for, or the path cannot be.
    """
    wanted = [FORMATS[each] for each in formats]
    if output == "":
        raise UsageError("-o is empty; give a file or a folder")
    path = Path(output or ".")
    longest = max((f.ending for f in wanted if path.name.lower().endswith(f.ending)), key=len, default=None)
    is_package = longest is not None and path.suffix.lower() == ".mlpackage"
    if (path.is_dir() and not is_package) or (output is not None and output.endswith(("/", "\\"))):
        base = path / name
    elif longest is not None:
        base = path.with_name(path.name[: -len(longest)])
    else:
        endings = " or ".join(each.ending for each in wanted)
        raise UsageError(f"-o {output} is no folder and does not end in {endings}; end a new folder's name with /")
    check_place(base, "-o")
    return {each.name: each.path(base) for each in wanted}
