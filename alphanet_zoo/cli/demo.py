"""The whole chain on real scans of digits: train, search, export, verify. Run it with ``make demo``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphanet_zoo.cli.arguments import check_place, parse_macs, positive_int
from alphanet_zoo.cli.command import CommandParser, run_command, say
from alphanet_zoo.errors import AccuracyError, AlphaNetError
from alphanet_zoo.files import FRONT_NAME

if TYPE_CHECKING:
    from alphanet_zoo.evaluate.evaluator import Evaluator, Hits, SubnetEvaluator
    from alphanet_zoo.space.arch import ArchSpec

FLOORS = {"largest": 0.97, "smallest": 0.95}
"""Minimum test accuracy of each subnet; that of the chosen subnet is the smallest's."""

EPILOG = """The output folder gets: data/ (the scans as PNG files), training/ (the run and its supernet), front.json and
front.png (accuracy against MACs), digits.json (the chosen arch), digits.onnx, digits.verify.json and report.html.
Only the last table uses the test images."""


def make_parser() -> CommandParser:
    """The command's parser."""
    parser = CommandParser("alphanet_zoo.cli.demo", "Train, search, export and verify on handwritten digits.",
                           epilog=EPILOG)  # fmt: skip
    parser.add_argument("-o", "--output", default="runs/demo", metavar="FOLDER", help="default: runs/demo")
    parser.add_argument("--max-flops", type=parse_macs, default=parse_macs("0.6M"), metavar="MACS",
                        help="the exported subnet's budget in multiply-accumulates (default: 0.6M)")  # fmt: skip
    parser.add_argument(
        "--evaluations", type=positive_int, default=48, metavar="N", help="subnets to evaluate (default: 48)"
    )
    parser.add_argument("--max-steps", type=positive_int, metavar="N", help="stop training early, for a quick trial")
    return parser


@dataclass
class Clock:
    """Wall time of each stage of the demo, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Prints the name of a stage and measures its time."""
        say(f"== {name}")
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began


@dataclass(frozen=True)
class Row:
    """A subnet in the final table."""

    name: str
    arch: ArchSpec
    macs: int
    params: int
    validation: Hits
    test: Hits


def demo_command(arguments: argparse.Namespace) -> int:
    """Runs the chain."""
    output, clock = Path(arguments.output), Clock()
    check_place(output, "--output", folder=True)
    with clock.stage("load the libraries"):
        import torch

        from alphanet_zoo.data.digits import write_digits
        from alphanet_zoo.data.folder import FolderSource
        from alphanet_zoo.evaluate.evaluator import Evaluator, SubnetEvaluator
        from alphanet_zoo.zoo.files import load_net
    torch.set_num_threads(1)  # A second thread does not help such a small network, and slows it down on a busy machine.
    with clock.stage("train the supernet"):
        data = write_digits(output / "data")
        supernet_file = _train(output, data, arguments.max_steps)
    with clock.stage("search on validation images"):
        train, validation = FolderSource(data / "train"), FolderSource(data / "val")
        evaluator = SubnetEvaluator(load_net(supernet_file), Evaluator(validation, train))
        evaluated = _search(evaluator, arguments.evaluations)
        chosen = choose(evaluated, arguments.max_flops[0])
    with clock.stage("export the best subnet within the budget"):
        _export(output, supernet_file, data, chosen)
    with clock.stage("verify the file on test images"):
        _verify(output, supernet_file, data)
    with clock.stage("measure on test images"):
        rows = _measure(evaluator, Evaluator(FolderSource(data / "test"), train), chosen)
    _write_front(output, evaluated, rows)
    say(_table(rows, clock))
    return _check(rows)


def _train(output: Path, data: Path, max_steps: int | None) -> Path:
    """Trains with the recipe digits; returns the supernet's file."""
    from alphanet_zoo.train.config import load_config
    from alphanet_zoo.train.loop import train

    overrides = [f"output={output / 'training'}", f"data.root={data}", f"max_steps={max_steps or 'null'}"]
    result = train(load_config("digits", overrides))
    if result.model is None:
        raise KeyboardInterrupt
    return result.model


def _search(evaluator: SubnetEvaluator, evaluations: int) -> list[dict[str, Any]]:
    """Evaluates subnets of all costs."""
    from alphanet_zoo.search.run import search

    return search(evaluator, 0.0, 1e18, evaluations, seed=0)


def choose(evaluated: Sequence[dict[str, Any]], budget: float) -> ArchSpec:
    """The most accurate of the evaluated subnets within a budget of MACs; of equals the cheapest.

    Raises:
        ValueError: No subnet is within the budget.
    """
    from alphanet_zoo.space.arch import ArchSpec

    within = [entry for entry in evaluated if entry["macs"] <= budget]
    if not within:
        least = min(entry["macs"] for entry in evaluated)
        raise ValueError(f"no subnet costs {budget / 1e6:g} M MACs or less; pass at least {least / 1e6:.3f}M")
    best = max(within, key=lambda entry: (entry["accuracy"], -entry["macs"]))
    return ArchSpec.from_dict(best["arch"])


def _export(output: Path, supernet_file: Path, data: Path, arch: ArchSpec) -> None:
    """Writes the arch, and the ONNX file with ``alphanet export``."""
    from alphanet_zoo.search.front import write_arch

    write_arch(output / "digits.json", arch.to_dict())
    _run(
        "export", "--arch", output / "digits.json", "--supernet", supernet_file,
        "--calib-data", data / "train", "-o", output / "digits.onnx",
    )  # fmt: skip


def _verify(output: Path, supernet_file: Path, data: Path) -> None:
    """Checks the ONNX file with ``alphanet verify``, which writes report.html. Its accuracy is checked later."""
    _run(
        "verify", output / "digits.onnx", "--reference", supernet_file, "--calib-data", data / "train",
        "--data", data / "test", "--min-top1", f"{100 * FLOORS['smallest']:g}",
        "--report", output / "report.html", "--seconds", "1",
        accept=(0, AccuracyError.exit_code),
    )  # fmt: skip


def _run(*arguments: object, accept: Sequence[int] = (0,)) -> None:
    """Runs ``alphanet`` in this process, and prints the command as a user would type it.

    Raises:
        AlphaNetError: It failed; it has printed why.
    """
    from alphanet_zoo.cli.main import main as alphanet

    argv = [str(argument) for argument in arguments]
    say(f"$ alphanet {' '.join(argv)}")
    code = alphanet(argv)
    if code not in accept:
        raise AlphaNetError(f"alphanet {argv[0]} ended with exit code {code}; its message is above")


def _measure(evaluator: SubnetEvaluator, test: Evaluator, chosen: ArchSpec) -> list[Row]:
    """The figures of the smallest, the chosen and the largest subnet."""
    net, rows = evaluator.supernet, []
    for name, arch in (("smallest", net.space.smallest), ("chosen", chosen), ("largest", net.space.largest)):
        evaluator(arch)
        macs, params = (count(arch, net.num_classes) for count in (net.space.count_macs, net.space.count_params))
        tested = test.answers_of(test.calibrated(net, arch)).hits
        rows.append(Row(name, arch, macs, params, evaluator.results[arch], tested))
    return rows


def _write_front(output: Path, evaluated: Sequence[dict[str, Any]], rows: Sequence[Row]) -> None:
    """Writes front.json and front.png."""
    from alphanet_zoo.search.front import write_front
    from alphanet_zoo.search.plot import plot_front

    write_front(output / FRONT_NAME, [e for e in evaluated if e["front"]])
    points = [(entry["macs"], entry["accuracy"]) for entry in evaluated]
    front = [(entry["macs"], entry["accuracy"]) for entry in evaluated if entry["front"]]
    test = [(row.macs, row.test.accuracy) for row in rows]
    plot_front(output / "front.png", points, front, test=test, images=rows[0].validation.images)


def _table(rows: Sequence[Row], clock: Clock) -> str:
    """The figures and the wall times as text."""
    from alphanet_zoo.evaluate.statistics import wilson_interval

    lines = [
        f"\n{'subnet':<9} {'MACs (M)':>9} {'params (k)':>11} {'val top-1 %':>12} {'test top-1 % (95 % interval)':>30}"
    ]
    for row in rows:
        low, high = wilson_interval(row.test.correct, row.test.images)
        test = f"{100 * row.test.accuracy:.2f} ({100 * low:.2f} to {100 * high:.2f})"
        lines.append(f"{row.name:<9} {row.macs / 1e6:9.3f} {row.params / 1e3:11.1f} "
                     f"{100 * row.validation.accuracy:12.2f} {test:>30}")  # fmt: skip
    lines.append(f"on {rows[0].validation.images} validation and {rows[0].test.images} test images")
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in clock.seconds.items())
    lines.append(f"wall time: {times}; together {sum(clock.seconds.values()):.1f} s")
    return "\n".join(lines)


def _check(rows: Sequence[Row]) -> int:
    """Returns 0; raises if the test accuracy of a subnet is below its minimum."""
    for row in rows:
        floor = FLOORS.get(row.name, FLOORS["smallest"])
        if row.test.accuracy < floor:
            raise AccuracyError(
                f"test accuracy of the {row.name} subnet is {100 * row.test.accuracy:.2f} %, below its minimum of "
                f"{100 * floor:g} %; train longer"
            )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns its exit code."""
    return run_command(make_parser(), demo_command, argv)


if __name__ == "__main__":
    sys.exit(main())
