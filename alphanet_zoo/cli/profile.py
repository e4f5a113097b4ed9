"""``alphanet profile``: measures a device, for searches by latency."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphanet_zoo.cli.arguments import check_places, existing_network, existing_path, positive_int
from alphanet_zoo.cli.command import CommandParser, note, run_command, say
from alphanet_zoo.errors import UsageError

if TYPE_CHECKING:
    from alphanet_zoo.search.device import LatencyModel
    from alphanet_zoo.space.space import SearchSpace

EPILOG = """Run it on an otherwise idle machine. alphanet search --latency-ms 5:40 --device device.json uses the file.

examples:
  %(prog)s --runtime onnxruntime --threads 2 -o device.json
  %(prog)s --supernet runs/mine --runtime openvino -o device.json
  %(prog)s --runtime onnxruntime --threads 4 --export-blocks blocks/     for a device without Python:
                                                                      copy blocks/ there, run measure.sh, copy it back
  %(prog)s --import blocks/ --name "Raspberry Pi 5" -o device.json"""

UNRELIABLE_PERCENT, UNRELIABLE_TAU = 15.0, 0.7
"""A latency model with a larger median error, or a smaller rank correlation, causes a warning."""
RUNTIMES = ("onnxruntime", "openvino", "executorch", "pytorch")


def make_parser(prog: str = "alphanet-profile") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Measure every distinct block of a search space on this device, once, and predict the "
                           "latency of its subnets.", epilog=EPILOG)  # fmt: skip
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--space", default="alphanet", metavar="NAME", help="the search space (default: alphanet)")
    what.add_argument("--supernet", type=existing_network, metavar="CKPT", help="a supernet, whose space and number of "
                      "classes are used")  # fmt: skip
    add("--num-classes", type=positive_int, metavar="N", help="classes of the classifier (default: of the supernet, "
        "else 1000)")  # fmt: skip
    add("--runtime", choices=RUNTIMES, default="onnxruntime", help="default: onnxruntime")
    add("--threads", type=positive_int, metavar="N", help="threads within an operator (default: the physical cores)")
    add("--rounds", type=positive_int, default=8, metavar="N", help="times that everything is measured, in a new "
        "order (default: 8)")  # fmt: skip
    add("--runs", type=positive_int, default=10, metavar="N", help="timed runs of each block per round (default: 10)")
    add("-o", "--output", type=Path, metavar="FILE", help="the latency model, such as device.json")
    add("--export-blocks", type=Path, metavar="DIR", help="write the blocks as ONNX files, with a script that times "
        "them with the command-line tool of the runtime (onnxruntime or openvino)")  # fmt: skip
    add("--import", dest="imported", type=existing_path, metavar="DIR", help="read the times of that script")
    add("--name", metavar="TEXT", help="with --import: name of the device")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measures, exports or imports."""
    if arguments.export_blocks is not None and arguments.imported is not None:
        raise UsageError("--export-blocks and --import cannot be used together; pass one of them")
    if arguments.imported is not None and arguments.supernet is not None:
        raise UsageError("--import reads the space from the folder; leave --supernet out")
    if arguments.export_blocks is None and arguments.output is None:
        raise UsageError("-o is required: the file of the latency model, such as device.json")
    check_places({"-o": arguments.output})
    if arguments.imported is not None:
        from alphanet_export.latency.remote import import_times

        if arguments.name is None:
            raise UsageError("--import requires the name of the device: --name TEXT")
        return _write(arguments, import_times(arguments.imported, arguments.name))
    space, classes = _space(arguments)
    from alphanet_export.verify.environment import physical_cores

    threads = arguments.threads or physical_cores()
    if arguments.export_blocks is None and threads > (os.cpu_count() or threads):
        note(
            arguments.prog, f"warning: --threads {threads} is more than the {os.cpu_count()} processors of this machine"
        )
    if arguments.export_blocks is not None:
        from alphanet_export.latency.remote import SCRIPT, export_parts

        count = export_parts(space, classes, arguments.runtime, threads, arguments.export_blocks,
                             rounds=arguments.rounds, runs=arguments.runs)  # fmt: skip
        say(f"{count} files in {arguments.export_blocks}; run sh {SCRIPT} in that folder on the device")
        return 0
    return _write(arguments, _measured(arguments, space, classes, threads))


def _space(arguments: argparse.Namespace) -> tuple[SearchSpace, int]:
    """The search space and the number of classes."""
    from alphanet_zoo.space.presets import SPACES
    from alphanet_zoo.space.space import SearchSpace

    space: Any
    if arguments.supernet is None:
        if arguments.space not in SPACES:
            raise UsageError(f"unknown space {arguments.space!r}; choose from {', '.join(SPACES)}")
        space, classes = SPACES[arguments.space], 1000
    else:
        from alphanet_zoo.zoo.open import open_net

        net = open_net(arguments.supernet).net
        space, classes = net.space, net.num_classes
        if not isinstance(space, SearchSpace):
            raise UsageError(f"alphanet profile measures AlphaNets; {arguments.supernet} is of another family")
        if arguments.num_classes not in (None, classes):
            raise UsageError(f"{arguments.supernet} has {classes} classes; leave --num-classes out")
    return space, arguments.num_classes or classes


def _measured(arguments: argparse.Namespace, space: SearchSpace, classes: int, threads: int) -> LatencyModel:
    """The latency model of this machine."""
    from tqdm import tqdm

    from alphanet_export.latency.measure import CHECKED, FITTED, profile_device
    from alphanet_zoo.search.device import distinct_parts

    total = arguments.rounds * (len(distinct_parts(space, classes)) + FITTED + CHECKED)
    with tqdm(total=total, desc="measuring", unit="graph", file=sys.stderr, disable=None) as bar:
        return profile_device(space, classes, arguments.runtime, threads, rounds=arguments.rounds,
                              runs=arguments.runs, progress=bar.update)  # fmt: skip


def _write(arguments: argparse.Namespace, model: LatencyModel) -> int:
    """Writes the model, and prints its errors."""
    model.write(arguments.output)
    errors = model.errors
    assert errors is not None
    say(
        f"{arguments.output}: {len(model.times_ms)} distinct parts of the space {model.space}\n"
        f"error on {errors.nets} other random subnets: median {errors.median_percent:.1f} %, 90 % are below "
        f"{errors.p90_percent:.1f} %; rank correlation (Kendall's tau) {errors.kendall_tau:.2f}"
    )
    if errors.median_percent > UNRELIABLE_PERCENT or errors.kendall_tau < UNRELIABLE_TAU:
        note(arguments.prog, "warning: these predictions are not reliable; measure again on an idle machine, with more "
             "--rounds and --runs, or with fewer --threads")  # fmt: skip
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet-profile``; returns its exit code."""
    return run_command(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
