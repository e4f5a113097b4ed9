"""The options of ``alphanet export``, checked before anything heavy is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from alphanet_export.formats import FORMATS, check_formats, format_by_ending, parse_formats
from alphanet_export.placing import NAME, is_folder
from alphanet_zoo.cli.arguments import (
    check_place,
    existing_network,
    existing_path,
    natural_int,
    parse_macs,
    percentage,
    positive_int,
)
from alphanet_zoo.cli.command import CommandParser
from alphanet_zoo.errors import UsageError
from alphanet_zoo.search.limits import parse_ms

EPILOG = """examples:
  %(prog)s alphanet_c10_m -o build/                 a model whose weights are included in the package
  %(prog)s --flops 40M --family cifar10 --onnx      the most accurate of them within 40 M MACs
  %(prog)s --latency-ms 1.5 --family cifar10 -o m.onnx    the most accurate within 1.5 ms on this machine
  %(prog)s alphanet_c10_m --format onnx,openvino,executorch,coreml,pt2,aoti -o build/
  %(prog)s alphanet_c10_m --embed-preprocessing --softmax    from pixels to probabilities
  %(prog)s alphanet_c10_m --web page/ --model-repository models/
  %(prog)s net.safetensors -o build/                a network of your own: a file, a folder or a training run
  %(prog)s runs/mine --front front.json --flops 300M --calib-data train/ -o build/
  %(prog)s alphanet_a4 --weights random             for measuring time: the weights are random
  %(prog)s --model alphanet_a4 --supernet supernet.safetensors --calib-data train/ --format safetensors
  %(prog)s runs/mine --arch best.json --calib-data train/ --name mine -o build/
  %(prog)s net.safetensors --quantize int8 --calib-data train/ -o net.int8.onnx
"""

MAX_IMAGE_SIZE = 4096
"""Maximum side of an exported input, in pixels; larger values are assumed to be typing errors."""
DEFAULT_MAX_DROP = 0.5
"""Points of top-1 that int8 may lose."""
BUDGETS = ("flops", "max_params", "latency_ms")
"""Options that choose a model of a family, or a subnet of a front."""


def make_parser(prog: str = "alphanet-export") -> CommandParser:
    """The command's parser."""
    description = "Write a model to files for deployment, and check that each computes what PyTorch computes."
    parser = CommandParser(prog, description, epilog=EPILOG)
    group = parser.add_argument_group("what to export (SOURCE, or one of the others)")
    group.add_argument("source", nargs="?", metavar="SOURCE",
                       help="a model's name, a .safetensors file, a save_pretrained folder, a training run or a Hub "
                            "repository; for a supernet choose the subnet with one of the next options")  # fmt: skip
    what = group.add_mutually_exclusive_group()
    what.add_argument("--flops", type=parse_macs, metavar="BUDGET",
                      help="the most accurate model of --family within this many MACs (multiply-accumulates, called "
                           "FLOPs in the literature), rounded to the last digit of BUDGET: 444M, 0.5G")  # fmt: skip
    group.add_argument("--front", type=existing_path, metavar="FILE",
                       help="a front of alphanet search; --flops, --latency-ms or --max-params chooses its most "
                            "accurate subnet within a budget")  # fmt: skip
    group.add_argument("--latency-ms", type=parse_ms, metavar="MS",
                       help="the most accurate model of --family within this time per image, measured on this machine "
                            "in the runtime of the first format; with --front, by the predicted times")  # fmt: skip
    group.add_argument("--max-params", type=parse_macs, metavar="N",
                       help="the most accurate model of --family with at most this many parameters: 2M")  # fmt: skip
    group.add_argument("--threads", type=positive_int, metavar="N",
                       help="with --latency-ms: threads to measure with (default: the physical cores)")  # fmt: skip
    what.add_argument(
        "--model", metavar="NAME", help="a model by name, such as alphanet_c10_m (alphanet models lists them)"
    )
    what.add_argument("--arch", metavar="FILE|NAME",
                      help="the arch of a subnet: a JSON file, an entry of a front such as front.json#3, a model's "
                           "name, smallest or largest (see alphanet arch --help)")  # fmt: skip
    _add_weights(parser)
    _add_files(parser)
    _add_int8(parser)
    _add_folders(parser)
    return parser


def _add_weights(parser: CommandParser) -> None:
    """Adds the options of weights and batch-norm statistics."""
    add = parser.add_argument_group("weights and batch-norm statistics").add_argument
    add("--family", metavar="NAME",
        help="the family that --flops, --max-params and --latency-ms choose from (default: imagenet)")  # fmt: skip
    add("--weights", metavar="PATH|REPO|random",
        help="a .safetensors file, a save_pretrained folder, a training run, a Hub repository, or random weights for "
             "measuring time (default: the published weights)")  # fmt: skip
    add("--supernet", type=existing_network, metavar="CKPT",
        help="the supernet that contains the arch: a .safetensors file, a training run, the published checkpoint, or "
             "the included cifar10_supernet")  # fmt: skip
    add("--num-classes", type=positive_int, metavar="N", help="number of classes that the weights must have")
    add("--calib-data", type=existing_path, metavar="FOLDER",
        help="training images, one folder per class, to compute batch-norm statistics from; required if the weights "
             "have none of their own")  # fmt: skip
    add("--data", type=existing_path, metavar="FOLDER",
        help="labelled images, one folder per class, to measure the accuracy of each file on")  # fmt: skip
    add("--calib-images", type=positive_int, metavar="N",
        help="number of these images, in batches of 256 (default: 16384, as published)")  # fmt: skip
    add("--calib-augment", action=argparse.BooleanOptionalAction, default=None,
        help="augment them as in the published training (default: in the ImageNet space)")  # fmt: skip


def _add_files(parser: CommandParser) -> None:
    """Adds the options of the files."""
    add = parser.add_argument_group("files").add_argument
    add("--format", type=parse_formats, default=(), metavar="LIST",
        help=f"formats, separated by commas: {', '.join(FORMATS)} (default: by the ending of -o, else "
             "onnx)")  # fmt: skip
    add("--onnx", action="store_true", help="the same as --format onnx")
    add("--pt2", action="store_true", help="the same as --format pt2: PyTorch's ExportedProgram")
    add("-o", "--output", metavar="PATH",
        help="a file, or a folder that exists or ends in / (default: <name>.* in this folder)")  # fmt: skip
    add("--bundle", action=argparse.BooleanOptionalAction, default=None,
        help="write README.md, labels.txt, preprocessing.json and predict.py beside the files (default: if -o is a "
             "folder)")  # fmt: skip
    add("--name", type=_name, metavar="NAME", help="name of the model, for its files and metadata (default: that of "
        "the model, the arch file or SOURCE)")  # fmt: skip
    add("--img-size", type=positive_int, metavar="PIXELS",
        help="side of the input; if it is not the arch's resolution, the graph resizes, as published with 224 "
             "(default: the resolution)")  # fmt: skip
    add("--dynamic-batch", action="store_true", help="accept any number of images (default: one)")
    add("--embed-preprocessing", action="store_true",
        help="include the preprocessing in the graph: the input is a uint8 RGB image (1, H, W, 3) of any "
             "size")  # fmt: skip
    add("--softmax", action="store_true",
        help="with --embed-preprocessing: the output is probabilities (default: logits)")  # fmt: skip
    add("--opset", type=positive_int, metavar="N", help="ONNX opset, 18 to 24 (default: 18)")
    add("--skip-verify", action="store_true", help="do not compare the files with PyTorch")
    add("--seed", type=natural_int, default=0, metavar="N",
        help="seed of the calibration images and of the images that parity is measured on (default: 0)")  # fmt: skip


def _add_int8(parser: CommandParser) -> None:
    """Adds the options of int8."""
    add = parser.add_argument_group("int8 (docs/quantize.md)").add_argument
    add("--quantize", choices=("int8",),
        help="write int8: QDQ for ONNX Runtime, NNCF for OpenVINO. --calib-data is used for calibration and to "
             "measure accuracy; nothing is written if accuracy drops too much")  # fmt: skip
    add("--max-drop", type=percentage, metavar="POINTS",
        help=f"points of top-1 that int8 may lose (default: {DEFAULT_MAX_DROP})")  # fmt: skip
    add("--labels-by-position", action="store_true",
        help="class i of --data and --calib-data is output i of the network, whatever their names (default: matched by "
             "name, unless the network has no labels)")  # fmt: skip
    add("--reduce-range", action=argparse.BooleanOptionalAction, default=None,
        help="7-bit weights, for CPUs without VNNI, whose 8-bit kernels saturate (default: as this CPU "
             "needs)")  # fmt: skip


def _add_folders(parser: CommandParser) -> None:
    """Adds the options of folders that contain the ONNX file."""
    add = parser.add_argument_group("folders with the ONNX file (used alone, they write no file here)").add_argument
    add("--web", metavar="DIR", help="write a web page that classifies images in the browser, with its serve.py")
    add("--ort-web", type=Path, metavar="PATH",
        help="with --web: the unpacked npm package onnxruntime-web (default: npm downloads it)")  # fmt: skip
    add("--model-repository", metavar="DIR",
        help="write an entry of a Triton or KServe model repository: DIR/<model>/config.pbtxt and the "
             "file")  # fmt: skip
    add("--max-batch", type=positive_int, metavar="N",
        help="with --model-repository and --dynamic-batch: maximum number of images that the server batches "
             "(default: 32)")  # fmt: skip


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses combinations of options that cannot work.

    Raises:
        UsageError: Names them.
        MissingDependencyError: A format needs a package that is not installed.
        MissingProgramError: A format needs a compiler, or ``--web`` needs npm, and it is not installed.
    """
    formats = wanted_formats(args)
    _check_source(args)
    _check_statistics(args)
    _check_files(args, formats)
    _check_folders(args, formats)
    _check_int8(args, formats)


def _check_source(args: argparse.Namespace) -> None:
    """Checks the options on what to export."""
    from alphanet_zoo.zoo.archs import ENDS, check_arch_source

    given = [flag for flag in ("weights", "supernet") if getattr(args, flag) is not None]
    chosen = [flag for flag in (*BUDGETS, "model", "arch", "front") if getattr(args, flag) is not None]
    _check_front(args, given)
    if len(given) > 1:
        raise UsageError("--weights and --supernet both name the network; pass one of them")
    if args.family is not None and not {*BUDGETS} & {*chosen}:
        raise UsageError("--family requires a budget: --flops, --latency-ms or --max-params")
    if args.source is None and not chosen and not given:
        raise UsageError("nothing to export; pass SOURCE (a model's name, a file, a folder or a training run), a "
                         "budget such as --flops, --model or --arch")  # fmt: skip
    if args.source is not None:
        _check_network(args.source, given, chosen)
    if args.arch is not None:
        check_arch_source(args.arch)
        named = not Path(args.arch).exists() and args.arch not in ENDS
        if args.source is None and (not given or args.weights == "random") and not named:
            raise UsageError(f"--arch {args.arch} requires the weights: pass SOURCE, --weights or --supernet with a "
                             "network that contains the arch")  # fmt: skip
    elif args.weights == "random" and not chosen and (args.source is None or not is_model(args.source)):
        raise UsageError("--weights random requires a model's name: pass it as SOURCE, or with --model, --arch or a "
                         "budget such as --flops")  # fmt: skip


def _check_front(args: argparse.Namespace, given: Sequence[str]) -> None:
    """Checks ``--front`` and its budgets."""
    budgets = [flag for flag in BUDGETS if getattr(args, flag) is not None]
    if args.threads is not None and (args.latency_ms is None or args.front is not None):
        raise UsageError("--threads requires --latency-ms, and has no effect on the predicted times of --front")
    if args.front is None:
        _check_family_budgets(args, budgets, given)
        return
    if not budgets:
        raise UsageError("--front requires a budget: --flops, --latency-ms or --max-params")
    if args.model is not None or args.arch is not None or args.family is not None:
        raise UsageError("--front chooses the subnet; leave --model, --arch and --family out")
    if (args.source is None and not given) or args.weights == "random":
        raise UsageError("--front requires the network that was searched; pass SOURCE or --supernet")


def _check_family_budgets(args: argparse.Namespace, budgets: Sequence[str], given: Sequence[str]) -> None:
    """Checks the budgets that choose a model of ``--family``."""
    if args.latency_ms is None and args.max_params is None:
        return
    if args.model is not None or args.arch is not None:
        raise UsageError(f"{_flag(budgets[-1])} chooses a model; leave --model and --arch out")
    if (args.source is not None and not is_model(args.source)) or (given and args.weights != "random"):
        raise UsageError(f"{_flag(budgets[-1])} chooses a model of --family, or with --front FILE a subnet of your "
                         "network; pass --front, a front of alphanet search")  # fmt: skip
    if args.latency_ms is not None:
        form = wanted_formats(args)[0]
        if not FORMATS[form].runs_here:
            raise UsageError(f"--latency-ms requires a format that runs on this machine, not {form}; put another "
                             "first, such as --format onnx, or use --flops")  # fmt: skip
        if args.quantize is not None:
            raise UsageError("--latency-ms measures float32; leave --quantize out, or use --flops")


def _flag(name: str) -> str:
    """The option of an argument."""
    return f"--{name.replace('_', '-')}"


def _check_network(source: str, given: Sequence[str], chosen: Sequence[str]) -> None:
    """Checks SOURCE, together with the options that name a network or choose an arch."""
    from alphanet_zoo.zoo.families import included_supernet
    from alphanet_zoo.zoo.names import unknown_network

    if is_model(source):
        if chosen:
            raise UsageError(f"{source} is a model's name, and {_flag(chosen[0])} chooses another; pass one of them")
        return
    if given:
        raise UsageError(f"SOURCE {source!r} and --{given[0]} both name the network; pass one of them")
    if not source or not (Path(source).exists() or "/" in source or included_supernet(source)):
        raise UsageError(unknown_network(source))


def is_model(source: str) -> bool:
    """Whether SOURCE is a model's name, not a path."""
    from alphanet_zoo.zoo.names import is_name

    return is_name(source) and not Path(source).exists()


def _name(text: str) -> str:
    """An argparse type: a name for files and for a model repository."""
    if not NAME.fullmatch(text):
        raise UsageError(f"{text!r} is not a valid name; use letters, digits, _ - and .")
    return text


def _check_statistics(args: argparse.Namespace) -> None:
    """Checks the options of calibration."""
    if args.calib_data is None and (args.calib_images is not None or args.calib_augment is not None):
        raise UsageError("--calib-images and --calib-augment require --calib-data")
    if args.calib_data is not None and not args.calib_data.is_dir():
        raise UsageError(f"{args.calib_data} is not a folder; pass one that has a folder of images for each class")
    if args.data is not None and not args.data.is_dir():
        raise UsageError(f"{args.data} is not a folder; pass one that has a folder of images for each class")
    if args.data is not None and (args.skip_verify or args.quantize is not None):
        raise UsageError("--data cannot be used with --skip-verify or --quantize; use alphanet verify --data")
    if args.calib_data is not None and args.weights == "random":
        raise UsageError("--weights random is for measuring time; leave --calib-data out")


def _check_files(args: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Checks the options of the files, as far as possible without the arch."""
    if args.img_size is not None and args.img_size > MAX_IMAGE_SIZE:
        raise UsageError(f"--img-size {args.img_size} is too large; pass at most {MAX_IMAGE_SIZE}")
    if args.opset is not None and not {"onnx", "ort"} & {*formats}:
        raise UsageError(f"--opset requires --format onnx; --format is {','.join(formats)}")
    if args.opset is not None and not 18 <= args.opset <= 24:
        raise UsageError(f"opset {args.opset} is not supported; pass 18 to 24")
    if args.softmax and not args.embed_preprocessing:
        raise UsageError("--softmax requires --embed-preprocessing")
    check_formats(formats, dynamic_batch=args.dynamic_batch, embeds=args.embed_preprocessing)


def _check_folders(args: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Checks ``--web`` and ``--model-repository``."""
    if args.ort_web is not None and args.web is None:
        raise UsageError("--ort-web requires --web")
    if args.max_batch is not None and (args.model_repository is None or not args.dynamic_batch):
        raise UsageError("--max-batch requires --model-repository and --dynamic-batch")
    if args.bundle and folders_only(args):
        raise UsageError("--bundle requires a file; pass -o or --format")
    for flag, folder in (("--web", args.web), ("--model-repository", args.model_repository)):
        if folder is None:
            continue
        if "onnx" not in formats:
            raise UsageError(f"{flag} requires the ONNX file; add onnx to --format, or leave --format out")
        if not folder:
            raise UsageError(f"{flag} is empty; pass a folder")
        if args.embed_preprocessing:
            raise UsageError(f"{flag} does not support --embed-preprocessing, because its clients send preprocessed "
                             "pixels; remove --embed-preprocessing")  # fmt: skip
        check_place(Path(folder), flag, folder=True)
    if args.web is not None:
        from alphanet_export.writers.ort_web import check_ort_web

        check_ort_web(args.ort_web)


def _check_int8(args: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Checks the options of int8."""
    if args.quantize is None:
        if args.max_drop is not None or args.reduce_range is not None:
            raise UsageError("--max-drop and --reduce-range require --quantize int8")
        return
    if args.calib_data is None:
        raise UsageError("--quantize int8 requires images for calibration and accuracy; pass --calib-data FOLDER")
    others = [name for name in formats if not FORMATS[name].int8]
    if others:
        able = ", ".join(name for name, form in FORMATS.items() if form.int8)
        raise UsageError(f"--quantize int8 supports --format {able}, not {others[0]}")
    if "openvino" in formats:
        from alphanet_export.packages import require_package

        require_package("nncf", "openvino")


def wanted_formats(args: argparse.Namespace) -> tuple[str, ...]:
    """The formats asked for, in the order of `FORMATS`; by default that of the ending of ``-o``, else ONNX."""
    asked = {*args.format, *(name for name in ("onnx", "pt2") if getattr(args, name))}
    return tuple(name for name in FORMATS if name in (asked or {format_by_ending(args.output) or "onnx"}))


def folders_only(args: argparse.Namespace) -> bool:
    """Whether only folders are asked for, and no file beside them."""
    asked = args.format or args.onnx or args.pt2 or args.output is not None
    return not asked and (args.web is not None or args.model_repository is not None)


def wants_bundle(args: argparse.Namespace) -> bool:
    """Whether to write the files that explain the export: by default if ``-o`` is a folder."""
    if args.bundle is not None or args.output is None:
        return bool(args.bundle)
    return is_folder(args.output, wanted_formats(args))
