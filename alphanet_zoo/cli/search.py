"""``alphanet-search``: from a supernet to its front of MACs and accuracy."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphanet_zoo.cli.command import (
    CommandParser,
    check_place,
    existing_path,
    natural_int,
    parse_macs,
    positive_int,
    run_command,
)
from alphanet_zoo.errors import UsageError

if TYPE_CHECKING:
    from alphanet_zoo.evaluate.subnets import SubnetEvaluator

EPILOG = """FLOPs here are multiply-accumulates (MACs) for one image, as in the field's model names.

example:
  alphanet-search --supernet runs/digits/final/model.safetensors --data runs/digits-data/val \\
    --calib-data runs/digits-data/train --max-flops 1M -o front.json --best best.json
  alphanet-export --supernet runs/digits/final/model.safetensors --arch best.json \\
    --calib-data runs/digits-data/train -o model.onnx"""


def make_parser() -> CommandParser:
    """The command's parser."""
    parser = CommandParser("alphanet-search", "Search a supernet for the subnets worth having.", epilog=EPILOG)
    add = parser.add_argument
    add("--supernet", required=True, type=existing_path, metavar="CKPT",
        help="a supernet's .safetensors, the folder of an alphanet-train run, or the published checkpoint")  # fmt: skip
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument("--data", type=existing_path, metavar="FOLDER", help="validation images, a folder a class")
    scored.add_argument(
        "--hold-out",
        type=positive_int,
        metavar="N",
        help="score on the N images of --calib-data that training with data.hold_out=N left out",
    )
    add("--calib-data", required=True, type=existing_path, metavar="FOLDER", help="training images, to calibrate with")
    add("--min-flops", metavar="MACS", help="least multiply-accumulates, such as 200M (default: no bound)")
    add("--max-flops", metavar="MACS", help="greatest multiply-accumulates, such as 0.5G (default: no bound)")
    add("--evaluations", type=positive_int, default=200, metavar="N", help="subnets to score (default: 200)")
    add("--calib-images", type=positive_int, default=8192, metavar="N", help="training images a subnet (default: 8192)")
    add(
        "--limit",
        type=positive_int,
        metavar="N",
        help="validation images to take, spread over the classes (default: all)",
    )
    add("--labels-by-position", action="store_true", help="class i of the images is output i of the supernet, whatever "
        "their names (default: matched by name, unless the supernet has no labels)")  # fmt: skip
    add("--batch-size", type=positive_int, default=128, metavar="N", help="images a batch (default: 128)")
    add("--seed", type=natural_int, default=0, help="seed of the search (default: 0)")
    add("-o", "--output", required=True, metavar="FILE", help="the front: a .json list, or a .csv table")
    add("--best", metavar="FILE", help="also write the arch of the most accurate subnet, for alphanet-export --arch")
    add("--plot", metavar="FILE", help="also draw accuracy against MACs as a PNG (needs the demo extra)")
    return parser


def search_command(arguments: argparse.Namespace) -> int:
    """Checks the arguments, searches and writes the front."""
    low = parse_macs(arguments.min_flops)[0] if arguments.min_flops is not None else 0.0
    high = parse_macs(arguments.max_flops)[0] if arguments.max_flops is not None else 1e18
    if low > high:
        raise UsageError(f"--min-flops {arguments.min_flops} is above --max-flops {arguments.max_flops}")
    output = Path(arguments.output)
    if output.suffix not in (".json", ".csv"):
        raise UsageError(f"-o {output}: give a name that ends with .json or .csv")
    for flag, place in (("-o", output), ("--best", arguments.best), ("--plot", arguments.plot)):
        if place is not None:
            check_place(Path(place), flag)
    from alphanet_export.build import open_net
    from alphanet_zoo.data.folder import FolderSource
    from alphanet_zoo.data.sources import split_hold_out
    from alphanet_zoo.evaluate.subnets import SubnetEvaluator

    supernet = open_net(arguments.supernet)
    if not supernet.supernet:
        raise UsageError(f"{arguments.supernet} holds a single net; give a supernet, such as alphanet-train writes")
    training = FolderSource(arguments.calib_data)
    calibration, validation = (
        (training, FolderSource(arguments.data))
        if arguments.hold_out is None
        else split_hold_out(training, arguments.hold_out)
    )
    evaluator = SubnetEvaluator(
        supernet,
        calibration,
        validation,
        batch_size=arguments.batch_size,
        calibration_images=arguments.calib_images,
        validation_images=arguments.limit,
        labels_by_position=arguments.labels_by_position,
    )
    evaluated = search(evaluator, low, high, arguments.evaluations, arguments.seed)
    front = [entry for entry in evaluated if entry["front"]]
    _write(output, front)
    if arguments.best:
        _write(Path(arguments.best), max(front, key=lambda entry: entry["accuracy"])["arch"])
    if arguments.plot:
        from alphanet_zoo.search.plot import plot_front

        points, best = ([(e["macs"], e["accuracy"]) for e in entries] for entries in (evaluated, front))
        plot_front(arguments.plot, points, best, images=front[0]["images"])
    _print_table(front, len(evaluated))
    return 0


def search(evaluator: SubnetEvaluator, low: float, high: float, evaluations: int, seed: int) -> list[dict[str, Any]]:
    """Searches a window of MACs.

    Args:
        evaluator: Scores the subnets of its supernet.
        low: Least MACs.
        high: Greatest MACs.
        evaluations: Subnets to score.
        seed: Seed of the search.

    Returns:
        An entry for every scored subnet, by ascending MACs: arch (published form), macs, params, accuracy (0 to 1),
        correct, images, and front: whether none beats it.

    Raises:
        ValueError: No subnet costs ``low`` to ``high``.
    """
    import numpy as np
    from tqdm import tqdm

    from alphanet_zoo.search.evolution import evolve, first_population
    from alphanet_zoo.search.pareto import pareto_front
    from alphanet_zoo.space.arch import ArchSpec
    from alphanet_zoo.space.cost import count_macs, count_params

    space, classes = evaluator.supernet.space, evaluator.supernet.num_classes
    rng = np.random.Generator(np.random.PCG64(seed))
    initial = first_population(space, low, high, max(evaluations // 3, 2), rng, num_classes=classes)
    with tqdm(total=evaluations, desc="searching", unit="subnet", file=sys.stderr, disable=None) as bar:

        def score(arch: ArchSpec) -> float:
            bar.update()
            return evaluator(arch)

        found = evolve(
            space, lambda arch: count_macs(arch, space, classes), score,
            initial=initial, evaluations=evaluations, rng=rng, low=low, high=high,
        )  # fmt: skip
    front = set(pareto_front([(c.cost, c.score) for c in found]))
    entries = [
        {
            "arch": c.arch.to_dict(),
            "macs": int(c.cost),
            "params": count_params(c.arch, space, classes),
            "accuracy": c.score,
            "correct": evaluator.results[c.arch].correct,
            "images": evaluator.results[c.arch].images,
            "front": i in front,
        }
        for i, c in enumerate(found)
    ]
    return sorted(entries, key=lambda entry: entry["macs"])


def _write(path: Path, content: Any) -> None:
    """Writes JSON, or for a ``.csv`` a table of the front."""
    from alphanet_zoo.files import replacing

    with replacing(path) as temporary:
        if path.suffix != ".csv":
            temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
            return
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(content[0]))
            writer.writeheader()
            writer.writerows({**entry, "arch": json.dumps(entry["arch"])} for entry in content)


def _print_table(front: Sequence[dict[str, Any]], scored: int) -> None:
    """Prints the front."""
    print(f"{len(front)} of {scored} scored subnets are on the front ({front[0]['images']} validation images)")
    print(f"{'MACs (M)':>10} {'params (k)':>11} {'top-1 %':>8}")
    for entry in front:
        print(f"{entry['macs'] / 1e6:10.3f} {entry['params'] / 1e3:11.1f} {100 * entry['accuracy']:8.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(make_parser(), search_command, argv)


if __name__ == "__main__":
    sys.exit(main())
