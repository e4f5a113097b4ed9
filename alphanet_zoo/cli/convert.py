"""``alphanet convert``: the authors' checkpoint to a supernet file that the other commands read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alphanet_zoo.cli.arguments import check_place, existing_path
from alphanet_zoo.cli.command import CommandParser, run_command, say
from alphanet_zoo.errors import UsageError

EPILOG = """\
The checkpoint is a pickle. It is read by PyTorch's restricted unpickler, which runs no code; the output is
a safetensors file. Weights converted from the authors' checkpoint keep its licence, CC-BY-NC-4.0.

example:
  %(prog)s alphanet.pth.tar -o supernet.safetensors
"""


def make_parser(prog: str = "alphanet-convert") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Convert the published checkpoint to a supernet file.", epilog=EPILOG)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=existing_path, help="the authors' .pth.tar file")
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, type=Path, help="the .safetensors file to write"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Converts the checkpoint."""
    checkpoint, output = arguments.checkpoint, arguments.output
    if checkpoint.is_dir():
        raise UsageError(f"{checkpoint} is a folder; pass the authors' .pth.tar file")
    if output.suffix != ".safetensors":
        raise UsageError(f"cannot write {output}; pass a file name that ends in .safetensors")
    check_place(output, "-o")

    from alphanet_zoo.zoo.convert import load_upstream
    from alphanet_zoo.zoo.files import save_net

    net = load_upstream(checkpoint)
    digest = save_net(net, output)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    say(
        f"wrote {output}: supernet, {len(net.state_dict())} tensors, {parameters:,} parameters, "
        f"{net.num_classes} classes, with the checkpoint's batch-norm statistics\nsha256 {digest}"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """``alphanet-convert``; returns its exit code."""
    return run_command(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
