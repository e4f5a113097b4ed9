"""``alphanet models``: lists the models, where their weights come from, and checks the files in the cache."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from alphanet_zoo.cli.arguments import existing_path
from alphanet_zoo.cli.command import CommandParser, say
from alphanet_zoo.errors import AlphaNetError, UsageError

EPILOG = """examples:
  %(prog)s
  %(prog)s --verify
  %(prog)s --verify --public-key publisher.pem

MACs are for one image. Top-1 is published for the family imagenet, and measured with the included weights for cifar10.
The cache is ALPHANET_HOME, or ~/.cache/alphanet_zoo. alphanet publish --to local adds models to it.
Exit code 1: a file in the cache is missing or its SHA-256 differs from the recorded one, or a signature is missing
or not valid."""


def make_parser(prog: str = "alphanet models") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "List the models and where their weights are.", epilog=EPILOG)
    parser.add_argument("--verify", action="store_true", help="compare every file in the cache with its SHA-256")
    parser.add_argument("--public-key", type=existing_path, metavar="KEY.pem", help="with --verify: also check the "
                        "signature of every model in the cache (alphanet publish --sign-key)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Lists the models; with --verify, checks them."""
    from alphanet_zoo.zoo.local import local_models, models_folder

    if arguments.public_key is not None and not arguments.verify:
        raise UsageError("--public-key requires --verify")
    models = local_models()
    damaged = {model.name: model.damaged() for model in models} if arguments.verify else {}
    rows = _rows(damaged, arguments.verify)
    if arguments.json:
        say(json.dumps(rows, indent=1), required=True)
    else:
        say(_table(rows), required=True)
    broken = [f"{name} ({', '.join(files)})" for name, files in damaged.items() if files]
    if broken:
        raise AlphaNetError(
            f"damaged in {models_folder()}: {'; '.join(broken)}; remove these folders and run alphanet publish again"
        )
    if arguments.public_key is not None:
        from alphanet_zoo.zoo.signing import check_signature

        for model in models:
            check_signature(model.folder, arguments.public_key)
    return 0


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text, under a heading."""
    name, family = (max(len(str(row[key] or "")) for row in rows) for key in ("name", "family"))
    lines = [f"{'model':<{name}}  {'family':<{family}}  M MACs  top-1, %  weights"]
    for row in rows:
        macs = "" if row["macs"] is None else f"{row['macs'] / 1e6:.1f}"
        top1 = "" if row["top1"] is None else f"{row['top1']:.2f}"
        lines.append(f"{row['name']:<{name}}  {row['family'] or '':<{family}}  {macs:>6}  {top1:>8}  {row['weights']}")
    return "\n".join(lines)


def _rows(damaged: dict[str, list[str]], verified: bool) -> list[dict[str, Any]]:
    """Name, family, MACs, published or measured top-1, and origin of the weights of each model."""
    from alphanet_zoo.space.cost import count_macs
    from alphanet_zoo.zoo.families import families
    from alphanet_zoo.zoo.local import local_models
    from alphanet_zoo.zoo.names import list_models

    local = {model.name: model for model in local_models()}
    known = {member.name: (family, member) for family, members in families().items() for member in members}
    rows = []
    for name in [*list_models(), *(name for name in local if name not in list_models())]:
        where = origin(name)
        if name in local:
            where = f"local: {local[name].folder}"
            if verified:
                where += ", DAMAGED" if damaged[name] else ", verified"
        family, member = known.get(name, (None, None))
        macs = None if member is None else count_macs(member.arch, member.space, member.num_classes)
        top1 = None if member is None else member.top1
        rows.append({"name": name, "family": family, "macs": macs, "top1": top1, "weights": where})
    return rows


def origin(name: str) -> str:
    """Where the weights of a model that is not in the cache come from, in words."""
    from alphanet_zoo.zoo.families import shipped_family_of
    from alphanet_zoo.zoo.names import find_member, is_name
    from alphanet_zoo.zoo.pins import PINS

    if not is_name(name):
        return "local"
    if shipped_family_of(find_member(name)) is not None:
        return "included in the package"
    organisation = os.environ.get("ALPHANET_HUB_ORG", "").strip()
    if organisation:
        return f"Hub: {organisation}/{name}"
    return f"Hub: {PINS[name].repository}" if name in PINS else "not published (see alphanet publish --help)"
