"""``alphanet-convert``: the authors' checkpoint to a supernet that the other commands read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alphanet_zoo.cli.command import CommandParser, existing_path, run_command
from alphanet_zoo.errors import UsageError

_EPILOG = """\
The checkpoint is a pickle. It is read by torch's restricted unpickler, which runs nothing; the output is
safetensors. Weights made from the authors' checkpoint keep its licence, CC-BY-NC-4.0.

example:
  alphanet-convert alphanet.pth.tar -o supernet.safetensors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = CommandParser("alphanet-convert", "Turn the published checkpoint into a supernet file.", epilog=_EPILOG)
    parser.add_argument("checkpoint", type=existing_path, help="the authors' .pth.tar file")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the .safetensors file to write")
    return run_command(parser, _convert, argv)


def _convert(arguments: argparse.Namespace) -> int:
    """Reads, writes, and says what was written."""
    checkpoint, output = arguments.checkpoint, arguments.output
    if checkpoint.is_dir():
        raise UsageError(f"{checkpoint} is a folder; give the authors' .pth.tar file")
    if output.suffix != ".safetensors" or output.is_dir():
        raise UsageError(f"cannot write {output}; give a file that ends in .safetensors")

    from alphanet_zoo.zoo.convert import load_upstream
    from alphanet_zoo.zoo.files import save_net

    net = load_upstream(checkpoint)
    digest = save_net(net, output)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    print(f"wrote {output}: supernet, {len(net.state_dict())} tensors, {parameters:,} parameters, "
          f"{net.num_classes} classes, statistics of the checkpoint")  # fmt: skip
    print(f"sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
