"""``alphanet compare``: measures the ImageNet family against other classifiers."""

from __future__ import annotations

import argparse
from pathlib import Path

from alphanet_export.verify.report import DEFAULT_RUNTIMES, PAGE_ENDINGS, RUNTIMES
from alphanet_zoo.cli.arguments import check_places, positive_float, positive_int
from alphanet_zoo.cli.command import CommandParser, note, say
from alphanet_zoo.errors import UsageError

EPILOG = """examples:
  %(prog)s --threads 1 -o table.html --plot front.png
  %(prog)s --models 'alphanet_a*,efficientnet_b0' --runtimes pytorch,onnxruntime,openvino

The weights are random: cost and time are measured, and accuracy is published. The other classifiers come from timm,
which the extra bench installs."""


def make_parser(prog: str = "alphanet compare") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Measure the ImageNet family against classifiers of timm.", epilog=EPILOG)
    add = parser.add_argument
    add("--runtimes", default=",".join(DEFAULT_RUNTIMES), metavar="NAMES",
        help=f"some of {','.join(RUNTIMES)} (default: {','.join(DEFAULT_RUNTIMES)})")  # fmt: skip
    add("--models", default="*", metavar="NAMES", help="models, such as 'alphanet_a*,efficientnet_b0' (default: all)")
    add("--threads", type=positive_int, metavar="N", help="threads per operator (default: the physical cores)")
    add("--batch", type=positive_int, default=8, metavar="N", help="images per run, for throughput (default: 8)")
    add("--repeats", type=positive_int, default=50, metavar="N", help="minimum number of timed runs (default: 50)")
    add("--seconds", type=positive_float, default=3.0, metavar="S", help="minimum time to measure (default: 3)")
    add("--plot", type=Path, metavar="PNG", help="also plot published top-1 against latency, with the Pareto front")
    add("-o", "--output", type=Path, metavar="PATH", help="also write the table: .html, .md or .json")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measures the table, writes it, and prints it."""
    runtimes = _runtimes(arguments.runtimes)
    if arguments.repeats < 2:
        raise UsageError("--repeats is 1; pass at least 2")
    path = arguments.output
    if path is not None:
        if path.suffix.lower() not in PAGE_ENDINGS:
            raise UsageError(f"--output {str(path)!r} must be a file that ends in {', '.join(PAGE_ENDINGS)}")
    if arguments.plot is not None:
        _check_plot(arguments.plot)
    check_places({"--output": path, "--plot": arguments.plot})
    from alphanet_export.verify.measure.contenders import contenders
    from alphanet_export.verify.report.compare import measure_table

    table = measure_table(
        contenders(arguments.models.split(",")),
        runtimes,
        threads=arguments.threads,
        batch=arguments.batch,
        rounds=arguments.repeats,
        seconds=arguments.seconds,
        tell=lambda words: note(arguments.prog, words),
    )
    text = table.to_text().rstrip("\n")
    if path is not None:
        table.write(path)
        text += f"\nwrote {path}"
    if arguments.plot is not None:
        table.write_plot(arguments.plot)
        text += f"\nwrote {arguments.plot}"
    say(text)
    return 0


def _check_plot(path: Path) -> None:
    """Refuses a plot that cannot be written, before anything is measured."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {str(path)!r} must be a file that ends in .png")
    from alphanet_export.packages import require_package

    require_package("matplotlib", "bench")


def _runtimes(text: str) -> tuple[str, ...]:
    """The runtimes in a list such as ``pytorch,onnxruntime``."""
    names = tuple(text.split(","))
    for name in names:
        if name not in RUNTIMES or names.count(name) > 1:
            raise UsageError(f"--runtimes {text!r}: pass some of {','.join(RUNTIMES)}, each once")
    return names
