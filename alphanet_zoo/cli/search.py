"""``alphanet search``: from a supernet to its Pareto front of a cost and a score."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphanet_zoo.cli.arguments import (
    check_place,
    check_places,
    duration_seconds,
    existing_network,
    existing_path,
    natural_int,
    parse_macs,
    positive_int,
)
from alphanet_zoo.cli.command import CommandParser, note, run_command, say
from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import FRONT_NAME, sha256_of
from alphanet_zoo.units import counted

EPILOG = """LIMIT is a maximum (600M), a range (200M:1.2G, 200M:) or percentages of the largest subnet.
FLOPs here are multiply-accumulates (MACs) per image, as in the names of models in the literature.

A search that was stopped continues when it is started again: every score is kept in scores.jsonl. Several processes
share a search: torchrun --nproc-per-node 2 -m alphanet_zoo.cli.search, with the same options.

examples:
  %(prog)s --supernet runs/digits/final/model.safetensors --data runs/digits-data/val \\
    --calib-data runs/digits-data/train --max-flops 1M -o front.json --best best.json
  alphanet export --supernet runs/digits/final/model.safetensors --arch best.json \\
    --calib-data runs/digits-data/train -o model.onnx
  %(prog)s --supernet runs/mine --data my_images --macs 200M:600M --strategy predictor --time 2h -o search/
  %(prog)s --supernet runs/mine --latency-ms 5:40 --device device.json --profile"""


def make_parser(prog: str = "alphanet-search") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Find the subnets of a supernet with the best accuracy for their cost.", epilog=EPILOG)
    parser.add_argument("--supernet", required=True, type=existing_network, metavar="CKPT",
        help="a supernet's .safetensors file, the folder of a training run, the published checkpoint, or the included "
             "cifar10_supernet")  # fmt: skip
    _add_images(parser)
    _add_limits(parser)
    add = parser.add_argument_group("search").add_argument
    add("--strategy", choices=("evolution", "nsga2", "predictor", "random"), default="evolution",
        help="how subnets to evaluate are chosen (default: evolution)")  # fmt: skip
    add("--evaluations", type=positive_int, default=200, metavar="N", help="subnets to evaluate (default: 200)")
    add("--time", type=duration_seconds, metavar="TIME", help="start no evaluation after this time, such as 90m or 2h "
        "(a number alone is seconds); the same command continues the search")  # fmt: skip
    add("--halving", action=argparse.BooleanOptionalAction, default=True, help="stop evaluating a subnet that is "
        "clearly less accurate than a cheaper one, by McNemar's test on the same images (default: on)")  # fmt: skip
    add("--score", metavar="MODULE:FUNCTION", help="your own score instead of the accuracy: a function of a calibrated "
        "network that returns a number, larger is better. For a file in this folder, set PYTHONPATH=.")  # fmt: skip
    add("--seed", type=natural_int, default=0, metavar="N", help="seed of the search (default: 0)")
    add = parser.add_argument_group("results").add_argument
    add("-o", "--output", type=Path, metavar="PATH", help="a folder for scores.jsonl, front.json, front.html and, with "
        "matplotlib, front.png; or only the front, a .json or .csv file, with its scores beside it")  # fmt: skip
    add("--nets", action="store_true", help="also write the calibrated subnets of the front to the folder -o, for "
        "az.create_model(FOLDER, macs='300M')")  # fmt: skip
    add("--best", type=Path, metavar="FILE", help="also write the arch of the most accurate subnet, for "
        "alphanet export --arch")  # fmt: skip
    add("--plot", type=Path, metavar="FILE", help="also plot accuracy against cost, as PNG (requires the extra demo)")
    return parser


def _add_images(parser: CommandParser) -> None:
    """Adds the options of the images."""
    add = parser.add_argument_group("images, in one folder per class").add_argument
    add("--data", type=existing_path, metavar="FOLDER", help="with --calib-data: validation images. Alone: training "
        "images (or a folder with train/), of which a part is held out for validation")  # fmt: skip
    add("--calib-data", type=existing_path, metavar="FOLDER", help="training images, for calibration")
    add("--hold-out", type=positive_int, metavar="N", help="validate on N training images, those that training with "
        "data.hold_out=N held out (default without validation images: that of the training run, else a "
        "tenth)")  # fmt: skip
    add("--calib-images", type=positive_int, default=8192, metavar="N", help="training images to calibrate each subnet "
        "on (default: 8192)")  # fmt: skip
    add("--limit", type=positive_int, metavar="N", help="validation images to use, spread over the classes (default: "
        "all)")  # fmt: skip
    add("--labels-by-position", action="store_true", help="class i of the images is output i of the supernet, whatever "
        "their names (default: matched by name, unless the supernet has no labels)")  # fmt: skip
    add("--batch-size", type=positive_int, default=128, metavar="N", help="images per batch (default: 128)")


def _add_limits(parser: CommandParser) -> None:
    """Adds the limits of the costs."""
    from alphanet_zoo.search.limits import UNITS, parse_latency_limit, parse_limit

    add = parser.add_argument_group("costs of a subnet").add_argument
    add("--macs", type=parse_limit, metavar="LIMIT", help="multiply-accumulates per image (default: no limit)")
    add("--params", type=parse_limit, metavar="LIMIT", help="parameters (default: no limit)")
    add("--latency-ms", type=parse_latency_limit, metavar="LIMIT", help="milliseconds on --device (default: no limit)")
    add("--device", type=existing_path, metavar="FILE", help="the latency model that alphanet profile writes")
    add("--axis", choices=tuple(UNITS), help="cost of the front (default: latency_ms if it is limited, else macs, or "
        "params if only they are limited)")  # fmt: skip
    add("--min-flops", type=parse_macs, metavar="MACS", help="the same as --macs MACS:")
    add("--max-flops", type=parse_macs, metavar="MACS", help="the same as --macs MACS")
    add("--profile", action="store_true", help="print the costs of the space and whether the limits can be met, and "
        "evaluate nothing")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Searches, and writes the front."""
    from alphanet_zoo.search.costs import make_problem
    from alphanet_zoo.search.device import LatencyModel

    limits = _limits(arguments)
    device = None if arguments.device is None else LatencyModel.read(arguments.device)
    if not arguments.profile:
        _check(arguments)
    from alphanet_zoo.zoo.open import open_net

    opened = open_net(arguments.supernet)
    if not opened.net.supernet:
        raise UsageError(
            f"{arguments.supernet} is a static network, which has no subnets to search; pass a supernet, such as "
            f"alphanet train writes, or export it: alphanet export {arguments.supernet}"
        )
    problem = make_problem(opened.net.space, limits, num_classes=opened.net.num_classes, axis=arguments.axis,
                           device=device)  # fmt: skip
    if arguments.profile:
        from alphanet_zoo.search.overview import profile_text

        text, feasible = profile_text(problem)
        say(text, required=True)
        return 0 if feasible else 5
    described = {} if device is None else {"device": {**device.described(), "sha256": sha256_of(arguments.device)}}
    return _search(arguments, opened.net, problem, described)


def _search(arguments: argparse.Namespace, supernet: Any, problem: Any, device: Mapping[str, Any]) -> int:
    """Searches, and writes the front; returns the exit code."""
    from alphanet_zoo.search.run import STRATEGIES, SearchRun
    from alphanet_zoo.search.scores import ScoreFile, processes
    from alphanet_zoo.search.setup import make_scorer, search_images

    images = search_images(arguments.supernet, arguments.data, arguments.calib_data, arguments.hold_out)
    problem.draw(2, _generator(arguments.seed))  # Limits that cannot be met end the search before anything is read.
    first = processes()[0] == 0
    for remark in images.notes if first else ():
        note(arguments.prog, remark)
    scorer, settings = make_scorer(
        supernet, images, calibration_images=arguments.calib_images, limit=arguments.limit,
        batch_size=arguments.batch_size, labels_by_position=arguments.labels_by_position, score=arguments.score,
        halving=arguments.halving,
    )  # fmt: skip
    scores = ScoreFile(_scores_path(arguments.output), settings)
    if scores.others and first:
        note(arguments.prog, f"note: ignoring {counted(scores.others, 'line')} of {scores.path}: damaged, or of "
             "another supernet, other images or other settings")  # fmt: skip
    search = SearchRun(problem, scorer, scores, STRATEGIES[arguments.strategy](arguments.evaluations),
                       time_limit=arguments.time)  # fmt: skip
    try:
        evaluated = search(arguments.evaluations, arguments.seed)
    except KeyboardInterrupt:
        if first:
            note(arguments.prog, "note: the same command continues the search; --time TIME ends a search with the "
                 "front that it has found")  # fmt: skip
        raise
    if not evaluated:
        raise UsageError(f"no subnet was evaluated within --time; pass a longer time, and the same -o "
                         f"{arguments.output} to continue")  # fmt: skip
    if first:
        provenance = {**settings, "strategy": arguments.strategy, "seed": arguments.seed, "axis": problem.axis,
                      "evaluations": search.evaluated, "test_images": images.are_test,
                      "limits": {name: [low, None if math.isinf(high) else high]
                                 for name, (low, high) in problem.limits.items()}, **device}  # fmt: skip
        if search.reused:
            note(arguments.prog, f"note: earlier searches evaluated {counted(search.reused, 'other subnet')} within "
                 f"the limits, which count too ({scores.path})")  # fmt: skip
        if arguments.nets:
            _write_nets(arguments.output, evaluated, scorer)
        _write(arguments, evaluated, provenance, search.out_of_time)
    return 0


def _write_nets(folder: Path, evaluated: Sequence[dict[str, Any]], scorer: Any) -> None:
    """Writes the subnets of the front, and their names to its entries."""
    from alphanet_zoo.zoo.files import save_net

    for number, entry in enumerate((entry for entry in evaluated if entry["front"]), 1):
        arch = scorer.supernet.space.read_arch(entry["arch"])
        entry["weights"] = f"subnet-{number:02d}.safetensors"
        save_net(scorer.evaluator.calibrated(scorer.supernet, arch), folder / entry["weights"])


def _generator(seed: int) -> Any:
    """A source of randomness."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(seed))


def _write(
    arguments: argparse.Namespace,
    evaluated: Sequence[dict[str, Any]],
    provenance: Mapping[str, Any],
    out_of_time: bool,
) -> None:
    """Writes all results, and prints the front."""
    from importlib.util import find_spec

    from alphanet_zoo.evaluate.evaluator import Hits
    from alphanet_zoo.search.front import write_arch, write_front
    from alphanet_zoo.search.plot import plot_entries

    front = [entry for entry in evaluated if entry["front"]]
    best, plots = max(front, key=lambda entry: entry["score"]), [arguments.plot] if arguments.plot is not None else []
    write_front(_front_path(arguments.output), front, provenance)
    if _is_folder(arguments.output):
        from alphanet_zoo.search.page import write_page

        write_page(arguments.output / "front.html", evaluated, provenance)
        plots += [arguments.output / "front.png"] if find_spec("matplotlib") else []
    for path in plots:
        plot_entries(path, evaluated, str(provenance["axis"]))
    if arguments.best is not None:
        write_arch(arguments.best, best["arch"])
    if "images" in best:
        suspicion = Hits(best["correct"], best["images"]).suspicion(int(provenance["num_classes"]))
        if suspicion is not None:
            note(arguments.prog, f"note: SUSPICIOUS: {suspicion}")
    if out_of_time:
        note(arguments.prog, "note: --time ended the search; the same command continues it")
    say(_table(front, int(provenance["evaluations"]), arguments))


def _limits(arguments: argparse.Namespace) -> dict[str, Any]:
    """The limits by cost."""
    from alphanet_zoo.search.limits import LATENCY, MACS, PARAMS, Limit

    given = {MACS: arguments.macs, PARAMS: arguments.params, LATENCY: arguments.latency_ms}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    if arguments.min_flops is not None or arguments.max_flops is not None:
        if MACS in limits:
            raise UsageError("--macs and --min-flops or --max-flops all limit the MACs; pass --macs only")
        low = arguments.min_flops[0] if arguments.min_flops is not None else 0.0
        high = arguments.max_flops[0] if arguments.max_flops is not None else math.inf
        if low > high:
            raise UsageError(f"--min-flops {low:g} is above --max-flops {high:g}")
        limits[MACS] = Limit(low, high)
    if (LATENCY in limits or arguments.axis == LATENCY) and arguments.device is None:
        cause = "--latency-ms" if LATENCY in limits else "--axis latency_ms"
        raise UsageError(f"{cause} requires --device device.json, which alphanet profile writes")
    return limits


def _check(arguments: argparse.Namespace) -> None:
    """Checks everything that would fail after the search."""
    if arguments.output is None:
        raise UsageError("--output (-o) is required: a folder, or a file name that ends in .json or .csv")
    if arguments.data is None and arguments.calib_data is None:
        raise UsageError("no images; pass --data with training images, of which a part is held out, or --calib-data "
                         "and --data with training and validation images")  # fmt: skip
    if None not in (arguments.data, arguments.calib_data, arguments.hold_out):
        raise UsageError("--data with validation images and --hold-out cannot be used together; pass one of them with "
                         "--calib-data")  # fmt: skip
    if arguments.nets and not _is_folder(arguments.output):
        raise UsageError(f"--nets requires a folder as -o, not {arguments.output}")
    if _is_folder(arguments.output):
        check_place(arguments.output, "-o", folder=True)
    elif arguments.output.suffix not in (".json", ".csv"):
        raise UsageError(f"-o {arguments.output}: pass a folder, or a file name that ends in .json or .csv")
    check_places({"-o": _front_path(arguments.output), "--best": arguments.best, "--plot": arguments.plot})
    if arguments.plot is not None:
        from alphanet_export.packages import require_package

        require_package("matplotlib", "demo")


def _is_folder(output: Path) -> bool:
    """Whether ``-o`` is a folder: one that exists, or a name without an ending. A name of a file never is."""
    return output.suffix not in (".json", ".csv") and (output.is_dir() or not output.suffix)


def _front_path(output: Path) -> Path:
    """The file of the front."""
    return output / FRONT_NAME if _is_folder(output) else output


def _scores_path(output: Path) -> Path:
    """The file of the scores."""
    return output / "scores.jsonl" if _is_folder(output) else output.with_name(f"{output.stem}.scores.jsonl")


def _table(front: Sequence[Mapping[str, Any]], evaluated: int, arguments: argparse.Namespace) -> str:
    """The front as a table, and a command that exports its last subnet."""
    measured = "top-1 %" if "accuracy" in front[0] else "score"
    images = f" ({front[0]['images']} validation images)" if "images" in front[0] else ""
    latency = "latency_ms" in front[0]
    rows = [
        f"{len(front)} of {counted(evaluated, 'evaluated subnet')} {'is' if len(front) == 1 else 'are'} on the front"
        f"{images}",
        f"{'#':>4} {'MACs (M)':>10} {'params (k)':>11}{'ms':>9} {measured:>8}" if latency
        else f"{'#':>4} {'MACs (M)':>10} {'params (k)':>11} {measured:>8}",
    ]  # fmt: skip
    for number, entry in enumerate(front, 1):
        time = f"{entry['latency_ms']:9.4g}" if latency else ""
        score = f"{100 * entry['score']:8.2f}" if "accuracy" in entry else f"{entry['score']:8.4f}"
        rows.append(f"{number:4d} {entry['macs'] / 1e6:10.3f} {entry['params'] / 1e3:11.1f}{time} {score}")
    words = ["--supernet", arguments.supernet, "--arch", f"{_front_path(arguments.output)}#{len(front)}"]
    training = arguments.calib_data
    if training is None or arguments.data is None:
        from alphanet_zoo.search.setup import training_folder

        training = training_folder(training or arguments.data)
    words += ["--calib-data", training, "-o", "model.onnx"]
    export = shlex.join(map(str, words))
    return "\n".join([*rows, f"next: alphanet export {export}"])


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet-search``, also for torchrun; returns its exit code."""
    return run_command(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
