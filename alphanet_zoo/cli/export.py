"""``alphanet-export``: a model or an arch to an ONNX file that has been checked."""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_zoo.cli.command import CommandParser, existing_path, natural_int, parse_macs, positive_int, run_command
from alphanet_zoo.errors import UsageError

if TYPE_CHECKING:
    from alphanet_export.freeze import FrozenNet
    from alphanet_export.source import Source
    from alphanet_export.write import Written

_EPILOG = """examples:
  alphanet-export --flops 444M --onnx                      the most accurate model within 444 M MACs
  alphanet-export --model alphanet_a4 --weights a4.safetensors -o build/
  alphanet-export --model alphanet_a4 --weights random     for timing: the weights are made up
  alphanet-export --arch arch.json --supernet supernet.safetensors --calib-data train/ -o subnet.onnx
"""

MAX_IMAGE_SIZE = 4096
"""The largest side of an exported input, in pixels: beyond it a slip of the keyboard is likelier than an image."""


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = CommandParser("alphanet-export", "Writes a model to ONNX and shows that the file computes the same.",
                           epilog=_EPILOG)  # fmt: skip
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
    return parser


def _add_weights(parser: CommandParser) -> None:
    """The options on weights and statistics."""
    group = parser.add_argument_group("weights and statistics")
    group.add_argument("--family", metavar="NAME", help="family that --flops chooses from (default: imagenet)")
    group.add_argument("--weights", metavar="PATH|REPO|random",
                       help="a .safetensors file, a save_pretrained folder, a Hub repository, or made-up values for "
                            "timing (default: the published weights)")  # fmt: skip
    group.add_argument("--supernet", type=existing_path, metavar="CKPT",
                       help="with --arch: a supernet's .safetensors, or the published checkpoint")  # fmt: skip
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
    group.add_argument("--onnx", action="store_true", help="write ONNX (the default)")
    group.add_argument("--pt2", action="store_true", help="write PyTorch's ExportedProgram")
    group.add_argument("-o", "--output", metavar="PATH",
                       help="a file, or a folder, existing or ending in / (default: <model>.onnx here)")  # fmt: skip
    group.add_argument("--img-size", type=positive_int, metavar="PIXELS",
                       help="side of the input; another than the arch's resolution is resized in the graph, as "
                            "published with 224 (default: the resolution)")  # fmt: skip
    group.add_argument("--dynamic-batch", action="store_true", help="take any number of images (default: one)")
    group.add_argument("--opset", type=positive_int, default=18, metavar="N", help="ONNX opset (default: 18)")
    group.add_argument("--skip-verify", action="store_true", help="do not compare the file with PyTorch")
    group.add_argument("--seed", type=natural_int, default=0, metavar="N",
                       help="of the calibration's draws and the images that parity is measured on")  # fmt: skip


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses options that do not go together.

    Raises:
        UsageError: Names them.
    """
    if (args.arch is None) != (args.supernet is None):
        raise UsageError("--arch and --supernet go together: a subnet's arch, and the supernet with its weights")
    if args.arch is not None and args.weights is not None:
        raise UsageError("--weights goes with --model or --flops; with --arch the weights are --supernet's")
    if args.family is not None and args.flops is None:
        raise UsageError("--family goes with --flops")
    if args.calib_data is None and (args.calib_images is not None or args.calib_augment is not None):
        raise UsageError("--calib-images and --calib-augment go with --calib-data")
    if args.calib_data is not None and not args.calib_data.is_dir():
        raise UsageError(f"{args.calib_data} is no folder; give one with a folder a class, each with its images")
    if args.calib_data is not None and args.weights == "random":
        raise UsageError("--weights random is for timing; leave --calib-data out")
    if args.img_size is not None and args.img_size > MAX_IMAGE_SIZE:
        raise UsageError(f"--img-size {args.img_size} is more than this network can mean; give up to {MAX_IMAGE_SIZE}")
    if not 18 <= args.opset <= 24:
        raise UsageError(f"opset {args.opset} is not supported; give 18 to 24")


@dataclass(frozen=True)
class OutputFiles:
    """Where the files go; None for a kind that is not asked for."""

    onnx: Path | None
    pt2: Path | None


def output_files(output: str | None, name: str, *, onnx: bool, pt2: bool) -> OutputFiles:
    """The paths that ``-o`` means for a model called ``name``; ONNX where no kind is asked for.

    Raises:
        UsageError: The name's ending is not that of a file asked for, or the path cannot be.
    """
    kinds = [kind for kind, wanted in (("onnx", onnx or not pt2), ("pt2", pt2)) if wanted]
    if output == "":
        raise UsageError("-o is empty; give a file or a folder")
    path = Path(output or ".")
    if path.is_dir() or (output is not None and output.endswith(("/", "\\"))):
        base = path / name
    elif path.suffix.lstrip(".").lower() in kinds:
        base = path.with_suffix("")
    else:
        endings = " or ".join(f".{kind}" for kind in kinds)
        raise UsageError(f"-o {output} is no folder and does not end in {endings}; end a new folder's name with /")
    parents = [parent for parent in base.parents if parent.exists()]
    if parents and not parents[0].is_dir():
        raise UsageError(f"-o {output} lies below {parents[0]}, which is a file; give another place")
    paths = {kind: base.with_name(f"{base.name}.{kind}") for kind in kinds}
    return OutputFiles(paths.get("onnx"), paths.get("pt2"))


def export(args: argparse.Namespace) -> None:
    """Runs the command."""
    check_arguments(args)
    name, notes = None, []
    if args.model is not None:
        from alphanet_zoo.zoo.names import find_member

        name = find_member(args.model).name
    elif args.flops is not None:
        from alphanet_export.select import select_member

        budget, digit = args.flops
        selection = select_member(budget, digit, args.family or "imagenet")
        name = selection.member.name
        notes += [selection.note] if selection.note else []
    files = output_files(args.output, name or args.arch.stem, onnx=args.onnx, pt2=args.pt2)

    from alphanet_export.source import named_source, supernet_source
    from alphanet_export.write import write_export

    if name is None:
        source = supernet_source(args.arch, args.supernet, args.num_classes)
    else:
        source = named_source(name, args.weights, args.num_classes)
    frozen = _frozen(args, source)
    written = write_export(frozen, source, onnx=files.onnx, pt2=files.pt2, opset=args.opset,
                           verify=not args.skip_verify, seed=args.seed)  # fmt: skip
    for note in notes + _remarks(frozen):
        print(f"alphanet-export: note: {note}", file=sys.stderr)
    print(_summary(frozen, source, written))


def _frozen(args: argparse.Namespace, source: Source) -> FrozenNet:
    """The frozen net, calibrated where images are given."""
    from alphanet_export.calibration_data import PUBLISHED_IMAGES, calibration_batches
    from alphanet_export.freeze import freeze, input_preprocessing
    from alphanet_zoo.space.presets import ALPHANET
    from alphanet_zoo.zoo.preprocess import ImageFolder

    net, arch = source.net, source.arch or source.net.arch
    batches = None
    if args.calib_data is not None:
        batches = calibration_batches(
            ImageFolder(args.calib_data),
            input_preprocessing(net, args.img_size or arch.resolution),
            images=args.calib_images or PUBLISHED_IMAGES,
            seed=args.seed,
            augment=net.space == ALPHANET if args.calib_augment is None else args.calib_augment,
        )
    return freeze(net, batches, arch=source.arch, img_size=args.img_size, dynamic_batch=args.dynamic_batch)


def _remarks(frozen: FrozenNet) -> list[str]:
    """What a user of this file should know beside the summary."""
    if frozen.net.calibration == "random":
        return ["the weights are random, made up for timing; what the file says of images means nothing"]
    if frozen.net.calibration in ("checkpoint", "sliced"):
        return ["the batch-norm statistics are the published checkpoint's, as they are; the published accuracy was "
                "measured after calibration: --calib-data FOLDER does that"]  # fmt: skip
    return []


def _summary(frozen: FrozenNet, source: Source, written: Written) -> str:
    """What was exported, for a person."""
    from alphanet_export.metadata import facts
    from alphanet_export.write import PARITY_IMAGES

    values, size = facts(frozen, source), frozen.preprocessing.input_size
    inside = f", resized to {frozen.net.arch.resolution} in the graph" if frozen.resizes else ""
    rows = {
        "model": f"{source.name}: {values['macs'] / 1e6:.2f} M MACs, {values['params'] / 1e6:.2f} M parameters, "
                 f"{values['num_classes']} classes",
        "weights": source.weights,
        "input": f"pixel_values ({'N' if frozen.dynamic_batch else 1}, 3, {size}, {size}){inside}; short side "
                 f"{frozen.preprocessing.resize_size}, centre crop {size}",
    }  # fmt: skip
    if values["published_top1"] is not None:
        rows["published"] = f"ImageNet top-1 {values['published_top1']:.2f} % (the authors' figure, not measured here)"
    rows["parity"] = "not measured (--skip-verify)"
    errors = []
    if written.parity is not None:
        errors.append(f"{written.parity.max_relative_error:.1e} in ONNX Runtime")
    if written.program_error is not None:
        errors.append(f"{written.program_error:.1e} of the program")
    if errors:
        rows["parity"] = f"largest relative error {', '.join(errors)}, on {PARITY_IMAGES} made-up images"
    lines = [f"{key + ':':<11}{value}" for key, value in rows.items()]
    return "\n".join(lines + [f"wrote:     {path} ({size / 1e6:.2f} MB)" for path, size in written.sizes.items()])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``alphanet-export``; returns its exit code."""
    with _no_collection():
        return run_command(build_parser(), export, argv)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Spares a short command the search for reference cycles: a sixth of its time (benchmarks/RESULTS.md)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


if __name__ == "__main__":
    sys.exit(main())
