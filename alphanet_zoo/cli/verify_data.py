"""``alphanet verify-data``: checks every image file in a folder."""

from __future__ import annotations

import argparse
import os
import sys

from alphanet_zoo.cli.arguments import check_place, existing_path, natural_int
from alphanet_zoo.cli.command import CommandParser, say
from alphanet_zoo.errors import AlphaNetError

EPILOG = """examples:
  %(prog)s images/                    decode every image
  %(prog)s images/ --write-manifest   also write images/manifest.jsonl, if every image is intact
  %(prog)s images/ --check            compare every file with images/manifest.jsonl

The manifest has one line of JSON per file: path, bytes, sha256, width, height. If a file is damaged, changed,
missing, or not in the manifest, it is listed on standard output and the exit code is 1."""


def make_parser(prog: str = "alphanet verify-data") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Check every image file in a folder.", epilog=EPILOG)
    parser.add_argument("root", type=existing_path, metavar="ROOT", help="the folder; images at any depth are checked")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write-manifest", action="store_true", help="decode, and write the manifest if all are "
                        "intact")  # fmt: skip
    action.add_argument("--check", action="store_true", help="compare with the manifest instead of decoding")
    parser.add_argument("--threads", type=natural_int, default=0, metavar="N", help="files to check at the same time "
                        "(default: 0, the number of CPU cores)")  # fmt: skip
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Checks the folder and prints what is wrong with it."""
    from alphanet_zoo.data.manifest import MANIFEST, check_manifest, verify_images, write_manifest

    if arguments.write_manifest:
        check_place(arguments.root / MANIFEST, "--write-manifest")
    action = write_manifest if arguments.write_manifest else check_manifest if arguments.check else verify_images
    threads = arguments.threads or os.cpu_count() or 1
    report = action(arguments.root, threads=threads, progress=sys.stderr.isatty())
    if report.problems:
        say("\n".join(report.problems), required=True)
        count = f"{len(report.problems)} problem{'s' * (len(report.problems) != 1)}"
        raise AlphaNetError(f"{count} in {report.files} files of {arguments.root}: see above")
    done = f"{arguments.root / MANIFEST} written" if arguments.write_manifest else "no problems"
    say(f"{report.files} files, {sum(entry.bytes for entry in report.entries):,} bytes: {done}")
    return 0
