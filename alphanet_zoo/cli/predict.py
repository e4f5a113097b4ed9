"""``alphanet predict``: classifies image files."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_export.formats import format_of
from alphanet_zoo.cli.arguments import check_place, existing_path, positive_int
from alphanet_zoo.cli.command import CommandParser, note, say
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import EXPORTED_ENDINGS, matching_paths, refuse_url
from alphanet_zoo.units import counted

if TYPE_CHECKING:
    from alphanet_zoo.predict.classifier import Classifier, Prediction

TEXT_FORMATS = ("text", "jsonl", "csv")
OUTPUT_ENDINGS = {"": "text", ".txt": "text", ".text": "text", ".jsonl": "jsonl", ".csv": "csv"}
"""Form of the results by the ending of ``-o``."""
CSV_HEADER = ("path", "rank", "label", "index", "probability")

EPILOG = """examples:
  %(prog)s photo.jpg
  %(prog)s photo.jpg --model alphanet_c10_xl
  %(prog)s photos/ --file classifier.onnx --topk 3      a file of alphanet export
  %(prog)s 'photos/**/*.jpg' --model runs/my_run -o results.csv
  %(prog)s scan.png --model runs/digits --arch best.json --calib-data runs/digits-data/train

Results are printed in the order of the images. A file that cannot be read is reported on standard error and skipped,
and the exit code is then 1. --format text prints one line per image, jsonl one JSON object per image, and csv one row
per class."""


def make_parser(prog: str = "alphanet predict") -> CommandParser:
    """The command's parser."""
    description = "Classify images: print the most likely classes and their probabilities."
    parser = CommandParser(prog, description, epilog=EPILOG)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image file, a folder (searched at any depth), or a pattern such as '*.jpg'",
    )
    _add_model(parser)
    add = parser.add_argument_group("output").add_argument
    add("--topk", type=positive_int, default=5, metavar="K", help="classes per image (default: 5)")
    add(
        "--format",
        choices=TEXT_FORMATS,
        help="form of the results (default: by the ending of -o: .txt, .jsonl or .csv; else text)",
    )
    add("-o", "--output", type=Path, metavar="FILE", help="write the results to a file (default: standard output)")
    return parser


def _add_model(parser: CommandParser) -> None:
    """Adds the options of the model."""
    group = parser.add_argument_group("model")
    add = group.add_mutually_exclusive_group().add_argument
    add("--model", metavar="NAME|PATH",
        help="a model by name, a .safetensors file, a save_pretrained folder, the folder of a training run, or a Hub "
             "repository (default: the middle model of the family that the package includes)")  # fmt: skip
    add("--file", type=existing_path, metavar="FILE", help=f"an exported file: {', '.join(EXPORTED_ENDINGS)}")
    add = group.add_argument
    add("--arch", metavar="JSON|NAME", help="the subnet to use, if --model is a supernet")
    add("--calib-data", type=existing_path, metavar="FOLDER",
        help="training images, one folder per class, to compute the batch-norm statistics of that subnet "
             "from")  # fmt: skip
    add("--preprocessing", type=existing_path, metavar="FILE.json",
        help="for a file that another program exported: its input_size, resize_size, interpolation, mean and "
             "std")  # fmt: skip
    add("--labels", type=existing_path, metavar="FILE",
        help="names of the classes, one per line (default: those of the model)")  # fmt: skip
    add("--multi-label", action="store_true",
        help="an image can have several labels: probabilities are the sigmoid of each logit (default: as the model was "
             "trained)")  # fmt: skip
    add("--threads", type=positive_int, metavar="N", help="threads per operator (default: the physical cores)")
    add("--batch-size", type=positive_int, default=32, metavar="N", help="images per batch (default: 32)")


def run(args: argparse.Namespace) -> int:
    """Classifies the images and writes the results; returns 1 if an image could not be read."""
    by_default = args.model is None and args.file is None
    _check(args)
    from alphanet_zoo.data.folder import find_images

    paths = [path for text in args.images for path in find_images(text)]
    if args.output is not None and any(_same(args.output, path) for path in paths):
        raise UsageError(f"-o {args.output} is one of the images; pass another file")
    classifier = _classifier(args)
    if by_default and classifier.labels is not None:
        known = ", ".join(classifier.labels)
        note(args.prog, f"model {args.model} (classes: {known}); pass --model or --file for another")
    if classifier.model.random_weights:
        note(args.prog, "note: the weights are random, so the results are meaningless")
    failed: list[str] = []
    from tqdm import tqdm

    with _writer(args.output) as write, tqdm(total=len(paths), unit="image", disable=_quiet(args)) as bar:

        def report(error: AlphaNetError) -> None:
            bar.update()
            failed.append(str(error))
            with tqdm.external_write_mode(file=sys.stderr):
                note(args.prog, str(error))

        render = _renderer(args)
        if render is _csv:
            write(_csv_row(CSV_HEADER))
        for prediction in classifier.stream(paths, args.topk, args.batch_size, on_error=report):
            bar.update()
            with tqdm.external_write_mode(file=sys.stdout):
                write(render(prediction))
    if failed:
        note(args.prog, f"error: {len(failed)} of {counted(len(paths), 'image')} could not be read")
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> None:
    """Refuses a command line that cannot work, before anything heavy is loaded."""
    for text in args.images:
        refuse_url(text)
        if not os.path.exists(text) and not matching_paths(text):
            raise UsageError(f"{text!r} does not exist and matches no file; pass an image, a folder or a pattern")
    if args.file is not None:
        format_of(args.file)
    if args.model is None and args.file is None:
        args.model = _default_model()
    if args.model is not None and args.model.lower().endswith(EXPORTED_ENDINGS):
        raise UsageError(f"--model {args.model} is an exported file; pass it with --file")
    for flag in ("arch", "calib_data"):
        if getattr(args, flag) is not None and args.file is not None:
            raise UsageError(f"--{flag.replace('_', '-')} requires --model, not --file")
    if args.preprocessing is not None and args.file is None:
        raise UsageError("--preprocessing requires --file; a network has its own preprocessing")
    if args.output is not None:
        check_place(args.output, "-o")
        if args.format is None and args.output.suffix.lower() not in OUTPUT_ENDINGS:
            raise UsageError(f"-o {args.output}: unknown ending {args.output.suffix}; use .txt, .jsonl or .csv, or "
                             f"pass --format {'|'.join(TEXT_FORMATS)}")  # fmt: skip


def _default_model() -> str:
    """The middle member of the family that the package includes."""
    from alphanet_zoo.zoo.families import shipped_family

    family = shipped_family()
    if family is None:
        raise UsageError(
            "no model: this version of the package includes no weights. Pass --model with a name, file, folder or "
            "training run, or --file with an exported file"
        )
    return family.members[len(family.members) // 2].name


def _same(first: Path, second: Path) -> bool:
    """Whether two paths are the same file."""
    return os.path.realpath(first) == os.path.realpath(second)


def _classifier(args: argparse.Namespace) -> Classifier:
    """The classifier that the command line asks for."""
    import torch

    from alphanet_zoo.predict.classifier import Classifier

    labels = None if args.labels is None else _labels(args.labels)
    multi_label = True if args.multi_label else None
    if args.file is None:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        return Classifier(
            args.model, arch=args.arch, calib_data=args.calib_data, labels=labels, multi_label=multi_label
        )
    preprocessing = None
    if args.preprocessing is not None:
        from alphanet_export.verify.reference import read_preprocessing

        preprocessing = read_preprocessing(args.preprocessing)
    return Classifier.load(
        args.file, preprocessing=preprocessing, labels=labels, multi_label=multi_label, threads=args.threads
    )


def _labels(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        UsageError: It is not a text file.
    """
    try:
        return path.read_text("utf-8-sig").removesuffix("\n").split("\n")
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UsageError(f"--labels {path} is not a text file in UTF-8; pass one with a class name per line") from error


def _quiet(args: argparse.Namespace) -> bool | None:
    """Whether to show no progress bar: for images named one by one; None lets tqdm decide (only on a terminal)."""
    return None if any(os.path.isdir(text) or not os.path.exists(text) for text in args.images) else True


@contextmanager
def _writer(output: Path | None) -> Iterator[Callable[[str], None]]:
    """Yields a function that writes one line or more: to standard output, or to a file that replaces ``output``."""
    if output is None:
        yield lambda text: say(text, required=True)
        return
    from alphanet_zoo.files import replacing

    with replacing(output) as temporary:
        # A path that is not valid UTF-8 is written with escapes, which are those of JSON.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield lambda text: print(text, file=file)


def _renderer(args: argparse.Namespace) -> Callable[[Prediction], str]:
    """The form of the results: that of ``--format``, else that of the ending of ``-o``, else text."""
    ending = args.output.suffix.lower() if args.output is not None else ""
    return {"text": _text, "jsonl": _jsonl, "csv": _csv}[args.format or OUTPUT_ENDINGS[ending]]


def _text(prediction: Prediction) -> str:
    """One line: the path and the classes."""
    line = f"{prediction.path}: {prediction}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _jsonl(prediction: Prediction) -> str:
    """One JSON object."""
    top = [{"label": each.label, "index": each.index, "probability": each.probability} for each in prediction.top]
    return json.dumps({"path": str(prediction.path), "top": top}, ensure_ascii=False)


def _csv(prediction: Prediction) -> str:
    """One row per class, in the columns of `CSV_HEADER`."""
    rows = [
        (prediction.path, rank, each.label, each.index, repr(each.probability))
        for rank, each in enumerate(prediction.top, 1)
    ]
    return "\n".join(map(_csv_row, rows))


def _csv_row(cells: Sequence[object]) -> str:
    """One row of a table."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # A cell with one of these characters is quoted.
    return line.getvalue().removesuffix("\r\n")
