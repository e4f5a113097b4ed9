"""``alphanet recipes``: lists the training recipes that ship with the package, or prints one."""

from __future__ import annotations

import argparse

from alphanet_zoo.cli.command import CommandParser, say

EPILOG = """examples:
  %(prog)s
  %(prog)s digits > my_recipe.yaml

alphanet train takes the name of a recipe, or a YAML file such as a changed copy of one."""


def make_parser(prog: str = "alphanet recipes") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "List the training recipes, or print one.", epilog=EPILOG)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the recipe to print (default: list all)")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Lists the recipes, or prints one."""
    from alphanet_zoo.recipes import recipe_summary, recipe_text, shipped_recipes

    if arguments.name is not None:
        say(recipe_text(arguments.name).rstrip("\n"), required=True)
        return 0
    names = shipped_recipes()
    width = max(map(len, names))
    say("\n".join(f"{name:<{width}}  {recipe_summary(name)}" for name in names), required=True)
    return 0
