"""``alphanet export``: from a model or an arch to files for deployment, each of which is checked."""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_export.formats import FORMATS, check_formats
from alphanet_zoo.cli.command import note, run_command, say
from alphanet_zoo.cli.export_options import (
    DEFAULT_MAX_DROP,
    check_arguments,
    folders_only,
    make_parser,
    output_files,
    wanted_formats,
)

if TYPE_CHECKING:
    from alphanet_export.build import Source
    from alphanet_export.freeze import FrozenNet
    from alphanet_export.quantize.writing import WrittenInt8
    from alphanet_export.write import Written
    from alphanet_zoo.data.sources import ImageSource
    from alphanet_zoo.evaluate.evaluator import Evaluator

__all__ = ["main", "make_parser", "run"]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disables the search for reference cycles: a sixth of the time of this short command (benchmarks/RESULTS.md)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_no_collection()
def run(args: argparse.Namespace) -> int:
    """Builds the network, writes the files, and prints a summary."""
    check_arguments(args)
    name, notes = _chosen(args)
    files = output_files(args.output, name or args.arch.stem, wanted_formats(args), int8=args.quantize is not None)

    from alphanet_export.build import named_source, supernet_source
    from alphanet_export.write import Written

    if name is None:
        source = supernet_source(args.arch, args.supernet, args.num_classes)
    else:
        source = named_source(name, args.weights, args.num_classes)
    resolution = (source.arch or source.net.arch).resolution
    resizes = args.img_size not in (None, resolution)
    check_formats(files, dynamic_batch=args.dynamic_batch, resizes=resizes, embeds=args.embed_preprocessing)
    frozen = _frozen(args, source)
    written, sizes = _write(args, frozen, source, files)
    if isinstance(written, Written):
        checked = {"parity": _parity(written)} | _accuracy(written)
    else:
        checked = _int8_rows(written)
        notes += [f"{each}: {text}" for each, log in written.logs.items() for text in log.notes()[1:]]
    for text in notes + _remarks(frozen):
        note(args.prog, f"note: {text}")
    say(_summary(args, frozen, source, checked, sizes))
    return 0


def _chosen(args: argparse.Namespace) -> tuple[str | None, list[str]]:
    """The name of the model (None for an arch), and notes on the choice."""
    if args.model is not None:
        from alphanet_zoo.zoo.names import find_member

        return find_member(args.model).name, []
    if args.flops is not None:
        from alphanet_export.select import select_member

        budget, digit = args.flops
        selection = select_member(budget, digit, args.family or "imagenet")
        return selection.member.name, [selection.note] if selection.note else []
    return None, []


def _frozen(args: argparse.Namespace, source: Source) -> FrozenNet:
    """The frozen network, calibrated if there are images."""
    from alphanet_export.freeze import freeze
    from alphanet_zoo.data.folder import FolderSource

    if args.calib_data is None:
        return freeze(source.net, arch=source.arch, img_size=args.img_size, dynamic_batch=args.dynamic_batch)
    evaluator = _evaluator(args, None, FolderSource(args.calib_data))
    net = evaluator.calibrated(source.net, source.arch, input_size=args.img_size)
    return freeze(net, img_size=args.img_size, dynamic_batch=args.dynamic_batch)


def _evaluator(args: argparse.Namespace, validation: ImageSource | None, calibration: ImageSource | None) -> Evaluator:
    """Judges networks on images as the command line says."""
    from alphanet_zoo.data.calibration import PUBLISHED_IMAGES
    from alphanet_zoo.evaluate.evaluator import Evaluator

    return Evaluator(
        validation, calibration, images=args.calib_images or PUBLISHED_IMAGES, seed=args.seed,
        augment=args.calib_augment, labels_by_position=args.labels_by_position,
    )  # fmt: skip


def _write(
    args: argparse.Namespace, frozen: FrozenNet, source: Source, files: Mapping[str, Path]
) -> tuple[Written | WrittenInt8, Mapping[Path, int]]:
    """Writes the files and folders; returns what was measured, and the sizes of what the user asked for."""
    with contextlib.ExitStack() as stack:
        places, sizes = dict(files), dict[Path, int]()
        if folders_only(args):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alphanet-export-")))
            places = {name: folder / path.name for name, path in files.items()}
        written = (_write_float if args.quantize is None else _write_int8)(args, frozen, source, places)
        if not folders_only(args):
            sizes.update(written.sizes)
        if args.web is not None:
            from alphanet_export.writers.to_web import write_web

            sizes[Path(args.web)] = sum(write_web(places["onnx"], args.web, args.ort_web).values())
        if args.model_repository is not None:
            from alphanet_export.writers.serving import write_repository

            made = write_repository(places["onnx"], args.model_repository, max_batch=args.max_batch)
            sizes[next(path.parent for path in made if path.name == "config.pbtxt")] = sum(made.values())
    return written, sizes


def _write_float(args: argparse.Namespace, frozen: FrozenNet, source: Source, files: Mapping[str, Path]) -> Written:
    """Writes float32 files."""
    from alphanet_export.write import write_export
    from alphanet_zoo.data.folder import FolderSource

    return write_export(
        frozen, source, **files, opset=args.opset or 18, embed_preprocessing=args.embed_preprocessing,
        probabilities=args.softmax, verify=not args.skip_verify, seed=args.seed,
        data=None if args.data is None else FolderSource(args.data), labels_by_position=args.labels_by_position,
    )  # fmt: skip


def _write_int8(args: argparse.Namespace, frozen: FrozenNet, source: Source, files: Mapping[str, Path]) -> WrittenInt8:
    """Quantizes and writes."""
    from alphanet_export.quantize.writing import write_int8
    from alphanet_zoo.data.folder import FolderSource

    return write_int8(
        frozen, FolderSource(args.calib_data), source, **files,
        max_drop=DEFAULT_MAX_DROP if args.max_drop is None else args.max_drop, reduce_range=args.reduce_range,
        opset=args.opset or 18, embed_preprocessing=args.embed_preprocessing, probabilities=args.softmax,
        verify=not args.skip_verify, seed=args.seed, labels_by_position=args.labels_by_position,
    )  # fmt: skip


def _remarks(frozen: FrozenNet) -> list[str]:
    """Notes on the network's statistics."""
    if frozen.net.calibration == "random":
        return ["the weights are random, for measuring time; the results for images are meaningless"]
    if frozen.net.calibration in ("checkpoint", "sliced"):
        return ["the batch-norm statistics are those of the published checkpoint; the published accuracy was measured "
                "after calibration, which --calib-data FOLDER does"]  # fmt: skip
    return []


def _summary(
    args: argparse.Namespace, frozen: FrozenNet, source: Source, checked: Mapping[str, str], sizes: Mapping[Path, int]
) -> str:
    """What was exported, as text."""
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
    if args.embed_preprocessing:
        short = frozen.preprocessing.resize_size
        rows["input"] = f"image (1, H, W, 3), uint8 RGB; in the graph: short side {short}, centre crop {size}{inside}"
        rows["output"] = "probabilities" if args.softmax else "logits"
    if values["published_top1"] is not None:
        rows["published"] = f"ImageNet top-1 {values['published_top1']:.2f} % (the authors' figure, not measured here)"
    rows |= checked
    lines = [f"{key + ':':<11}{value}" for key, value in rows.items()]
    return "\n".join(lines + [f"wrote:     {path} ({_readable(size)})" for path, size in sizes.items()])


def _readable(size: int) -> str:
    """A number of bytes as text."""
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _parity(written: Written) -> str:
    """Whether the files compute what the network computes, as text."""
    parts = [f"{FORMATS[name].title} was not run (it requires macOS); its graph was checked" for name in written.unrun]
    errors = [f"{parity.max_relative_error:.1e} in {FORMATS[name].title}" for name, parity in written.parities.items()]
    if errors:
        images = next(iter(written.parities.values())).images
        parts.insert(0, f"largest relative error {', '.join(errors)}, on {images} synthetic images")
    return "; ".join(parts) or "not measured (--skip-verify)"


def _accuracy(written: Written) -> dict[str, str]:
    """The accuracy of the files, as a line of the summary; none if it was not measured."""
    found = []
    for name, accuracy in written.accuracies.items():
        text = f"{accuracy.top1:.2f} % ({accuracy.correct} of {accuracy.images}) in {FORMATS[name].title}"
        found.append(f"{text}; SUSPICIOUS: {accuracy.suspicion}" if accuracy.suspicion else text)
    return {"top-1": ", ".join(found)} if found else {}


def _int8_rows(written: WrittenInt8) -> dict[str, str]:
    """The accuracy of int8, and the parity of the float32 graph, as lines of the summary."""
    rows = {"parity": "not measured (--skip-verify)"}
    if written.parity is not None:
        rows["parity"] = f"largest relative error {written.parity.max_relative_error:.1e} before int8, in ONNX Runtime"
    for name, log in written.logs.items():
        rows[name] = log.notes()[0]
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet-export``; returns its exit code."""
    return run_command(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
