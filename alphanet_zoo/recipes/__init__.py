"""The training recipes: one YAML file for each run that somebody may want to repeat."""

from __future__ import annotations

import difflib
from importlib import resources

from alphanet_zoo.errors import UsageError


def shipped_recipes() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    folder = resources.files(__name__)
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe, with its comments.

    Raises:
        UsageError: No recipe has that name; the message suggests one.
    """
    names = shipped_recipes()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UsageError(f"no recipe is called {name!r}; did you mean {near}? Recipes: {', '.join(names)}")
    return (resources.files(__name__) / f"{name}.yaml").read_text("utf-8")


def recipe_summary(name: str) -> str:
    """The first line of a recipe's header, which describes it.

    Raises:
        UsageError: No recipe has that name.
    """
    return recipe_text(name).splitlines()[0].removeprefix("# ")
