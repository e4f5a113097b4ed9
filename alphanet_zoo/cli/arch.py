"""``alphanet arch``: shows an arch and its cost."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphanet_zoo.cli.arguments import natural_int
from alphanet_zoo.cli.command import CommandParser, say
from alphanet_zoo.errors import UsageError

if TYPE_CHECKING:
    from alphanet_zoo.space.family import Space
    from alphanet_zoo.space.space import SearchSpace
    from alphanet_zoo.zoo.archs import NamedArch

EPILOG = """examples:
  %(prog)s alphanet_a4
  %(prog)s best.json
  %(prog)s front.json                    every arch of a Pareto front of alphanet search, by number
  %(prog)s front.json#3 --json > third.json
  %(prog)s largest --space alphanet_tiny --num-classes 10
  %(prog)s model.onnx                    the arch that an exported file computes

A MAC is one multiplication and one addition. Tools that count FLOPs count it as two; papers on mobile networks often
write FLOPs and mean MACs. alphanet export --arch and finetune.arch take the same names and files."""


def make_parser(prog: str = "alphanet arch") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Show an arch: its choices, MACs and parameters.", epilog=EPILOG)
    parser.add_argument("source", metavar="NAME|FILE", help="a model's name; smallest or largest; a JSON file of an "
                        "arch; a front, or one entry of it (front.json#3); a static network; an exported "
                        "file")  # fmt: skip
    parser.add_argument("--space", metavar="NAME", help="the search space (default: that of the source, else the first "
                        "one that contains the arch)")  # fmt: skip
    parser.add_argument("--num-classes", type=natural_int, metavar="N",
                        help="classes to count the classifier with (default: of the source, else 1000)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, which --arch reads")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Prints the arch, or the table of a front."""
    from alphanet_zoo.space.presets import SPACES
    from alphanet_zoo.zoo.archs import ENDS, read_front

    if arguments.space is None and arguments.source in ENDS and not Path(arguments.source).exists():
        raise UsageError(f"every search space has a {arguments.source} arch; pass --space {'|'.join(SPACES)}")
    if arguments.space not in (None, *SPACES):
        raise UsageError(f"unknown space {arguments.space!r}; choose from {', '.join(SPACES)}")
    space = SPACES.get(arguments.space)
    path = Path(arguments.source)
    front = read_front(path) if path.is_file() and path.suffix.lower() in (".json", ".csv") else None
    if front is not None:
        say(json.dumps(front, indent=1) if arguments.json else _table(path, front), required=True)
        return 0
    described = _described(_find(arguments.source, space), space, arguments.num_classes)
    say(json.dumps(described, indent=1) if arguments.json else _text(described), required=True)
    return 0


def _find(source: str, space: SearchSpace | None) -> NamedArch:
    """The arch of a name, a file or an exported file."""
    from alphanet_export.formats import format_by_ending
    from alphanet_zoo.zoo.archs import NamedArch, find_arch

    if not Path(source).is_file() or format_by_ending(source) in (None, "safetensors"):
        return find_arch(source, space)
    from alphanet_export.metadata import open_exported

    model = open_exported(source)
    return NamedArch(str(model.metadata.get("name") or Path(source).stem), model.arch, model.space, model.num_classes)


def _described(found: NamedArch, space: SearchSpace | None, num_classes: int | None) -> dict[str, Any]:
    """The arch and its cost, ready for JSON.

    Raises:
        UsageError: The search space of the arch is not known.
        ValueError: ``space`` does not contain it.
    """
    from alphanet_zoo.space.presets import SPACES

    chosen: Space[Any] | None = space or found.space
    if chosen is None:
        raise UsageError(f"the arch of {found.name} is in none of the spaces {', '.join(SPACES)}; its cost depends on "
                         "the space, so pass a file that names it, such as a network")  # fmt: skip
    classes = next(each for each in (num_classes, found.num_classes, 1000) if each is not None)
    return {
        "name": found.name,
        "arch": found.arch.to_dict(),
        "macs": chosen.count_macs(found.arch, classes),
        "params": chosen.count_params(found.arch, classes),
        "num_classes": classes,
        "published_top1": None if found.member is None else found.member.top1,
        "space": chosen.name if chosen in SPACES.values() else chosen.to_dict(),
    }


def _text(described: Mapping[str, Any]) -> str:
    """The arch and its cost as text."""
    from alphanet_zoo.space.cost import macs_text

    arch, space = described["arch"], described["space"]
    rows = [
        f"name:        {described['name']}",
        f"space:       {space if isinstance(space, str) else space['name']}",
        f"resolution:  {arch['resolution']}",
        f"cost:        {macs_text(described['macs'], flops=True)} per image",
        f"parameters:  {described['params'] / 1e6:.2f} M, with {described['num_classes']} classes",
    ]
    if described["published_top1"] is not None:
        rows.append(f"top-1:       {described['published_top1']:.2f} % (published or included weights)")
    if "kernel_size" not in arch:
        rows += [f"{f'{entry}:':<13}{' '.join(map(str, arch[entry]))}" for entry in ("width", "depth") if arch[entry]]
        return "\n".join(rows)
    rows += ["", f"{'stage':<7}{'width':>7}{'depth':>7}{'kernel_size':>13}{'expand_ratio':>14}"]
    rows.append(f"{'stem':<7}{arch['width'][0]:>7}")
    columns = zip(arch["width"][1:-1], arch["depth"], arch["kernel_size"], arch["expand_ratio"], strict=True)
    for index, (width, depth, kernel, expand) in enumerate(columns, 1):
        rows.append(f"{index:<7}{width:>7}{depth:>7}{kernel:>13}{expand:>14}")
    rows.append(f"{'head':<7}{arch['width'][-1]:>7}")
    return "\n".join(rows)


def _table(path: Path, front: Sequence[Mapping[str, Any]]) -> str:
    """The entries of a front as a table."""
    rows = [f"{'entry':<24}{'MACs (M)':>10}{'params (k)':>12}{'top-1 %':>9}{'resolution':>12}"]
    for number, entry in enumerate(front, 1):
        rows.append(f"{f'{path}#{number}':<24}{entry['macs'] / 1e6:>10.3f}{entry['params'] / 1e3:>12.1f}"
                    f"{100 * entry['accuracy']:>9.2f}{entry['arch']['resolution']:>12}")  # fmt: skip
    return "\n".join(rows)
