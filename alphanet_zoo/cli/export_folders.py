"""The folders that ``alphanet-export`` makes around an ONNX file: a page, and an entry of a model repository."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_zoo.cli.command import CommandParser, positive_int
from alphanet_zoo.errors import UsageError

if TYPE_CHECKING:
    from alphanet_export.write import Written


def folder_options(parser: CommandParser) -> None:
    """Adds the options on these folders."""
    group = parser.add_argument_group("folders around the ONNX file (alone, they leave no file here)")
    group.add_argument("--web", metavar="DIR", help="a page that classifies pictures in a browser, with its serve.py")
    group.add_argument("--ort-web", type=Path, metavar="PATH",
                       help="with --web: the unpacked npm package onnxruntime-web (default: npm "
                            "fetches it)")  # fmt: skip
    group.add_argument("--model-repository", metavar="DIR",
                       help="an entry of a Triton or KServe model repository: DIR/<model>/config.pbtxt "
                            "and the file")  # fmt: skip
    group.add_argument("--max-batch", type=positive_int, metavar="N",
                       help="with --model-repository and --dynamic-batch: images that the server may put together "
                            "(default: 32)")  # fmt: skip


def check_folder_options(args: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Refuses what cannot work, before anything heavy is loaded.

    Raises:
        UsageError: Names it.
        MissingProgramError: ``--web`` needs npm, which is missing, or ``--ort-web``.
    """
    if args.ort_web is not None and args.web is None:
        raise UsageError("--ort-web goes with --web")
    if args.max_batch is not None and (args.model_repository is None or not args.dynamic_batch):
        raise UsageError("--max-batch goes with --model-repository and --dynamic-batch")
    for flag, folder in (("--web", args.web), ("--model-repository", args.model_repository)):
        if folder is None:
            continue
        if "onnx" not in formats:
            raise UsageError(f"{flag} needs the ONNX file; add onnx to --format, or leave --format out")
        parents = [path for path in (Path(folder), *Path(folder).parents) if path.exists()]
        if not folder or not parents[0].is_dir():
            raise UsageError(f"{flag} {folder!r} is or lies below a file; give a folder")
    if args.web is not None:
        from alphanet_export.writers.ort_web import check_ort_web

        check_ort_web(args.ort_web)


@contextmanager
def file_places(args: argparse.Namespace, files: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Where the files are written: as asked or, where only folders are asked for, a place that ends with the block."""
    asked = args.format or args.onnx or args.pt2 or args.output is not None
    if asked or (args.web is None and args.model_repository is None):
        yield dict(files)
        return
    with tempfile.TemporaryDirectory(prefix="alphanet-export-") as folder:
        yield {name: Path(folder) / path.name for name, path in files.items()}


def write_folders(
    args: argparse.Namespace, written: Written, places: Mapping[str, Path], files: Mapping[str, Path]
) -> Written:
    """Makes the folders; what was written then names them, and no file that does not stay."""
    sizes = {path: size for path, size in written.sizes.items() if places == files}
    if args.web is not None:
        from alphanet_export.writers.to_web import write_web

        sizes[Path(args.web)] = sum(write_web(places["onnx"], args.web, args.ort_web).values())
    if args.model_repository is not None:
        from alphanet_export.writers.serving import write_repository

        made = write_repository(places["onnx"], args.model_repository, max_batch=args.max_batch)
        sizes[next(path.parent for path in made if path.name == "config.pbtxt")] = sum(made.values())
    return dataclasses.replace(written, sizes=sizes)
