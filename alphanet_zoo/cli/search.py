"""``alphanet search``: from a supernet to its Pareto front of MACs and accuracy."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphanet_zoo.cli.command import (
    CommandParser,
    check_places,
    existing_path,
    natural_int,
    note,
    parse_macs,
    positive_int,
    run_command,
    say,
)
from alphanet_zoo.errors import UsageError

EPILOG = """FLOPs here are multiply-accumulates (MACs) per image, as in the names of models in the literature.

example:
  %(prog)s --supernet runs/digits/final/model.safetensors --data runs/digits-data/val \\
    --calib-data runs/digits-data/train --max-flops 1M -o front.json --best best.json
  alphanet export --supernet runs/digits/final/model.safetensors --arch best.json \\
    --calib-data runs/digits-data/train -o model.onnx"""


def make_parser(prog: str = "alphanet-search") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Find the subnets of a supernet with the best accuracy for their cost.", epilog=EPILOG)
    add = parser.add_argument
    add("--supernet", required=True, type=existing_path, metavar="CKPT",
        help="a supernet's .safetensors file, the folder of a training run, or the published checkpoint")  # fmt: skip
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument("--data", type=existing_path, metavar="FOLDER", help="validation images, one folder per class")
    scored.add_argument(
        "--hold-out",
        type=positive_int,
        metavar="N",
        help="validate on the N images of --calib-data that training with data.hold_out=N held out",
    )
    add("--calib-data", required=True, type=existing_path, metavar="FOLDER", help="training images, for calibration")
    add("--min-flops", type=parse_macs, metavar="MACS", help="minimum MACs of a subnet, such as 200M (default: none)")
    add("--max-flops", type=parse_macs, metavar="MACS", help="maximum MACs of a subnet, such as 0.5G (default: none)")
    add("--evaluations", type=positive_int, default=200, metavar="N", help="subnets to evaluate (default: 200)")
    add("--calib-images", type=positive_int, default=8192, metavar="N", help="training images to calibrate each subnet "
        "on (default: 8192)")  # fmt: skip
    add("--limit", type=positive_int, metavar="N", help="validation images to use, spread over the classes (default: "
        "all)")  # fmt: skip
    add("--labels-by-position", action="store_true", help="class i of the images is output i of the supernet, whatever "
        "their names (default: matched by name, unless the supernet has no labels)")  # fmt: skip
    add("--batch-size", type=positive_int, default=128, metavar="N", help="images per batch (default: 128)")
    add("--seed", type=natural_int, default=0, metavar="N", help="seed of the search (default: 0)")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the front: a .json list, or a .csv table")
    add("--best", type=Path, metavar="FILE", help="also write the arch of the most accurate subnet, for "
        "alphanet export --arch")  # fmt: skip
    add("--plot", type=Path, metavar="FILE", help="also plot accuracy against MACs, as PNG (requires the extra demo)")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Searches, and writes the front."""
    low, high = _limits(arguments)
    _check(arguments)
    from alphanet_zoo.data.folder import FolderSource
    from alphanet_zoo.data.sources import split_hold_out, spread
    from alphanet_zoo.evaluate.evaluator import Evaluator, Hits, SubnetEvaluator
    from alphanet_zoo.search.run import search, write_arch, write_front
    from alphanet_zoo.zoo.open import open_net

    supernet = open_net(arguments.supernet).net
    if not supernet.supernet:
        raise UsageError(
            f"{arguments.supernet} is a static network, which has no subnets to search; pass a supernet, such as "
            f"alphanet train writes, or export it: alphanet export {arguments.supernet}"
        )
    training = FolderSource(arguments.calib_data)
    calibration, validation = (
        (training, FolderSource(arguments.data))
        if arguments.hold_out is None
        else split_hold_out(training, arguments.hold_out)
    )
    images = Evaluator(
        spread(validation, arguments.limit), calibration, images=arguments.calib_images,
        batch_size=arguments.batch_size, labels_by_position=arguments.labels_by_position,
    )  # fmt: skip
    evaluator = SubnetEvaluator(supernet, images)
    evaluated = search(evaluator, low, high, arguments.evaluations, arguments.seed)
    front = [entry for entry in evaluated if entry["front"]]
    best_entry = max(front, key=lambda entry: entry["accuracy"])
    write_front(arguments.output, front)
    if arguments.best is not None:
        write_arch(arguments.best, best_entry["arch"])
    if arguments.plot is not None:
        from alphanet_zoo.search.plot import plot_front

        points, best = ([(e["macs"], e["accuracy"]) for e in entries] for entries in (evaluated, front))
        plot_front(arguments.plot, points, best, images=front[0]["images"])
    suspicion = Hits(best_entry["correct"], best_entry["images"]).suspicion(supernet.num_classes)
    if suspicion is not None:
        note(arguments.prog, f"note: SUSPICIOUS: {suspicion}")
    say(_table(front, len(evaluated), arguments))
    return 0


def _limits(arguments: argparse.Namespace) -> tuple[float, float]:
    """Minimum and maximum cost in MACs."""
    low = arguments.min_flops[0] if arguments.min_flops is not None else 0.0
    high = arguments.max_flops[0] if arguments.max_flops is not None else 1e18
    if low > high:
        raise UsageError(f"--min-flops {low:g} is above --max-flops {high:g}")
    return low, high


def _check(arguments: argparse.Namespace) -> None:
    """Checks everything that would fail after the search."""
    if arguments.output.suffix not in (".json", ".csv"):
        raise UsageError(f"-o {arguments.output}: pass a file name that ends in .json or .csv")
    check_places({"-o": arguments.output, "--best": arguments.best, "--plot": arguments.plot})
    if arguments.plot is not None:
        from alphanet_export.packages import require_package

        require_package("matplotlib", "demo")


def _table(front: Sequence[Mapping[str, Any]], evaluated: int, arguments: argparse.Namespace) -> str:
    """The front as a table, and a command that exports its last subnet."""
    rows = [
        f"{len(front)} of {evaluated} evaluated subnets are on the front ({front[0]['images']} validation images)",
        f"{'#':>4} {'MACs (M)':>10} {'params (k)':>11} {'top-1 %':>8}",
    ]
    for number, entry in enumerate(front, 1):
        figures = f"{entry['macs'] / 1e6:10.3f} {entry['params'] / 1e3:11.1f} {100 * entry['accuracy']:8.2f}"
        rows.append(f"{number:4d} {figures}")
    words = ["--supernet", arguments.supernet, "--arch", f"{arguments.output}#{len(front)}"]
    words += ["--calib-data", arguments.calib_data, "-o", "model.onnx"]
    export = shlex.join(map(str, words))
    return "\n".join([*rows, f"next: alphanet export {export}"])


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet-search``; returns its exit code."""
    return run_command(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
