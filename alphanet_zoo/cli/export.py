"""``alphanet-export``: a model or an arch to files that deploy, each of which has been checked."""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_export.formats import FORMATS, check_formats
from alphanet_zoo.cli.command import run_command
from alphanet_zoo.cli.export_folders import file_places, write_folders
from alphanet_zoo.cli.export_int8 import int8_rows, write_int8_files
from alphanet_zoo.cli.export_options import build_parser, check_arguments, output_files, wanted_formats

if TYPE_CHECKING:
    from alphanet_export.build import Source
    from alphanet_export.freeze import FrozenNet
    from alphanet_export.write import Written


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
    files = output_files(args.output, name or args.arch.stem, wanted_formats(args))

    from alphanet_export.build import named_source, supernet_source
    from alphanet_export.write import write_export

    if name is None:
        source = supernet_source(args.arch, args.supernet, args.num_classes)
    else:
        source = named_source(name, args.weights, args.num_classes)
    size, resolution = args.img_size, (source.arch or source.net.arch).resolution
    check_formats(files, dynamic_batch=args.dynamic_batch, resizes=size not in (None, resolution))
    frozen = _frozen(args, source)
    if args.quantize is None:
        with file_places(args, files) as places:
            written = write_export(frozen, source, **places, opset=args.opset or 18, verify=not args.skip_verify,
                                   seed=args.seed)  # fmt: skip
            written = write_folders(args, written, places, files)
        checked, sizes = {"parity": _parity(written)}, written.sizes
    else:
        int8 = write_int8_files(args, frozen, source, files)
        checked, sizes = int8_rows(int8), int8.sizes
    for note in notes + _remarks(frozen):
        print(f"alphanet-export: note: {note}", file=sys.stderr)
    print(_summary(frozen, source, checked, sizes))


def _frozen(args: argparse.Namespace, source: Source) -> FrozenNet:
    """The frozen net, calibrated where images are given."""
    from alphanet_export.freeze import freeze, input_preprocessing
    from alphanet_zoo.data.calibration import PUBLISHED_IMAGES, calibration_batches
    from alphanet_zoo.data.folder import FolderSource
    from alphanet_zoo.space.presets import ALPHANET

    net, arch = source.net, source.arch or source.net.arch
    batches = None
    if args.calib_data is not None:
        batches = calibration_batches(
            FolderSource(args.calib_data),
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


def _summary(frozen: FrozenNet, source: Source, checked: Mapping[str, str], sizes: Mapping[Path, int]) -> str:
    """What was exported, for a person."""
    from alphanet_export.metadata import facts

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
    rows |= checked
    lines = [f"{key + ':':<11}{value}" for key, value in rows.items()]
    return "\n".join(lines + [f"wrote:     {path} ({size / 1e6:.2f} MB)" for path, size in sizes.items()])


def _parity(written: Written) -> str:
    """What is known of whether the files compute what the net computes."""
    parts = [f"{FORMATS[name].title} was not run (macOS alone can), its graph was checked" for name in written.unrun]
    errors = [f"{parity.max_relative_error:.1e} in {FORMATS[name].title}" for name, parity in written.parities.items()]
    if errors:
        images = next(iter(written.parities.values())).images
        parts.insert(0, f"largest relative error {', '.join(errors)}, on {images} made-up images")
    return "; ".join(parts) or "not measured (--skip-verify)"


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
