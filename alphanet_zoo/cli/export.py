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

from alphanet_export.bundle import check_bundle_folder
from alphanet_export.formats import FORMATS
from alphanet_export.placing import default_name, output_files
from alphanet_zoo.cli.command import note, run_command, say
from alphanet_zoo.cli.export_options import (
    BUDGETS,
    DEFAULT_MAX_DROP,
    check_arguments,
    folders_only,
    is_model,
    make_parser,
    wanted_formats,
    wants_bundle,
)
from alphanet_zoo.errors import TargetError, UsageError
from alphanet_zoo.files import FRONT_NAME

if TYPE_CHECKING:
    from alphanet_export.build import Source
    from alphanet_export.export import ExportResult
    from alphanet_zoo.space.presets import FamilyMember
    from alphanet_zoo.zoo.archs import NamedArch
    from alphanet_zoo.zoo.select import Selection

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
    """Writes the files, and prints a summary."""
    check_arguments(args)
    network, arch, notes = _chosen(args)
    formats = wanted_formats(args)
    files = output_files(args.output, _name(args, network, arch), formats, int8=args.quantize is not None)
    if wants_bundle(args):
        check_bundle_folder(next(iter(files.values())).parent, tuple(files))

    from alphanet_export.build import open_source
    from alphanet_zoo.space.cost import macs_text

    source = open_source(network, arch, num_classes=args.num_classes, name=_name(args, network, arch))
    if args.front is not None:
        _check_searched(_front_file(args.front), source)
    result, sizes = _write(args, source, files)
    for text in [*notes, *result.notes]:
        note(args.prog, f"note: {text}")
    budget = [f"budget:    {macs_text(args.flops[0], flops=True)}"] if args.flops is not None else []
    say("\n".join([*budget, result.summary(sizes)]))
    return 0


def _chosen(args: argparse.Namespace) -> tuple[str | None, str | NamedArch | None, list[str]]:
    """The network to open (None for published weights), the arch to take (None for the network's), and notes."""
    from alphanet_zoo.zoo.archs import ENDS, find_arch
    from alphanet_zoo.zoo.names import find_member

    network = args.weights or (None if args.supernet is None else str(args.supernet))
    model, notes = args.model, list[str]()
    if args.source is not None and is_model(args.source):
        model = args.source
    elif args.source is not None:
        network = args.source
    if args.front is not None:
        return network, _from_front(args), notes
    if any(getattr(args, flag) is not None for flag in BUDGETS):
        selection = _selected(args, network)
        model, notes = selection.member.name, [selection.note] if selection.note else []
    if model is not None:
        return network, find_arch(find_member(model).name), notes
    return network, args.arch if args.arch in (None, *ENDS) else find_arch(args.arch), notes


def _selected(args: argparse.Namespace, network: str | None) -> Selection:
    """The model of a family within the budgets."""
    from alphanet_zoo.search.limits import LATENCY, MACS, PARAMS, cost_text
    from alphanet_zoo.zoo.select import select_member

    if network is not None and (Path(network) / FRONT_NAME).is_file():
        raise UsageError(f"{network} is a folder of alphanet search; pass the supernet that was searched, and "
                         f"--front {Path(network) / FRONT_NAME}")  # fmt: skip
    counts = {} if args.flops is None else {MACS: args.flops}
    if args.max_params is not None:
        counts[PARAMS] = (args.max_params[0], 1.0)  # Exact.

    def measure(member: FamilyMember) -> float:
        from alphanet_export.latency.measure import model_latency

        form = wanted_formats(args)[0]
        latency = model_latency(member, form, threads=args.threads, img_size=args.img_size,
                                embed_preprocessing=args.embed_preprocessing)  # fmt: skip
        text = cost_text(LATENCY, latency)
        note(args.prog, f"note: {member.name} takes {text} per image here ({FORMATS[form].title}, median)")
        return latency

    try:
        return select_member(args.family or "imagenet", counts, latency_ms=args.latency_ms, measure=measure)
    except TargetError as error:
        if network in (None, "random"):
            raise
        raise TargetError(f"{error}. For a subnet of {network}, pass --front FILE, a front of alphanet search, or "
                          "--arch") from error  # fmt: skip


def _front_file(path: Path) -> Path:
    """The file of ``--front``, which may also be the folder of a search."""
    return path / FRONT_NAME if path.is_dir() else path


def _check_searched(front: Path, source: Source) -> None:
    """Raises UsageError if the front records that other weights were searched."""
    from alphanet_zoo.search.scorer import digest_of_net
    from alphanet_zoo.zoo.archs import front_provenance

    searched = front_provenance(front).get("supernet_sha256")
    if searched is not None and digest_of_net(source.net) != searched:
        raise UsageError(
            f"{front} is the front of a search with other weights than those of {source.weights}; pass the supernet "
            "that was searched, or search again"
        )


def _from_front(args: argparse.Namespace) -> NamedArch:
    """The most accurate subnet of a front within the budgets, which are exact."""
    from alphanet_zoo.zoo.archs import find_arch, read_front
    from alphanet_zoo.zoo.fronts import pick

    path = _front_file(args.front)
    if not path.is_file():
        raise UsageError(f"{args.front} does not contain {FRONT_NAME}; pass a front of alphanet search")
    front = read_front(path)
    if front is None:
        raise UsageError(f"{args.front} is not a front; pass a file of alphanet search -o")
    counts = {"macs": args.flops, "params": args.max_params}
    budgets = {name: value[0] for name, value in counts.items() if value is not None}
    if args.latency_ms is not None:
        budgets["latency_ms"] = args.latency_ms
    return find_arch(f"{path}#{pick(front, budgets, str(args.front)) + 1}")


def _name(args: argparse.Namespace, network: str | None, arch: str | NamedArch | None) -> str:
    """The name of the export."""
    if args.name is not None:
        return str(args.name)
    if arch is not None:
        return arch if isinstance(arch, str) else arch.name
    assert network is not None
    return default_name(network)


def _write(
    args: argparse.Namespace, source: Source, files: Mapping[str, Path]
) -> tuple[ExportResult, Mapping[Path, int]]:
    """Writes the files and folders; returns the result, and the sizes of what the user asked for."""
    from alphanet_export.export import export_source

    with contextlib.ExitStack() as stack:
        places, sizes = dict(files), dict[Path, int]()
        if folders_only(args):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alphanet-export-")))
            places = {name: folder / path.name for name, path in files.items()}
        result = export_source(
            source, places, calibration=args.calib_data, calibration_images=args.calib_images,
            calibration_augment=args.calib_augment, data=args.data, labels_by_position=args.labels_by_position,
            img_size=args.img_size, dynamic_batch=args.dynamic_batch, opset=args.opset or 18,
            embed_preprocessing=args.embed_preprocessing, probabilities=args.softmax,
            verify=not args.skip_verify, seed=args.seed, quantize=args.quantize,
            max_drop=DEFAULT_MAX_DROP if args.max_drop is None else args.max_drop, reduce_range=args.reduce_range,
            bundle=wants_bundle(args),
        )  # fmt: skip
        if not folders_only(args):
            sizes.update(result.sizes)
        if args.web is not None:
            from alphanet_export.writers.to_web import write_web

            sizes[Path(args.web)] = sum(write_web(places["onnx"], args.web, args.ort_web).values())
        if args.model_repository is not None:
            from alphanet_export.writers.serving import write_repository

            made = write_repository(places["onnx"], args.model_repository, max_batch=args.max_batch)
            sizes[next(path.parent for path in made if path.name == "config.pbtxt")] = sum(made.values())
    return result, sizes


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet-export``; returns its exit code."""
    return run_command(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
