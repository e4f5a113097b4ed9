"""A training run as a typed value: YAML, ``key=value`` overrides, and errors that name the nearest valid key.

No torch here: a wrong command line is refused at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.errors import UsageError
from alphanet_zoo.recipes import recipe_text, shipped_recipes
from alphanet_zoo.schema import Count, Section
from alphanet_zoo.space.presets import SPACES
from alphanet_zoo.train.sections import (
    DistributedConfig,
    FineTuneConfig,
    GuardConfig,
    LogConfig,
    OptimConfig,
    SandwichConfig,
    ValidationConfig,
)


class TrainConfig(Section):
    """Everything that fixes a run; the same config and data give the same weights."""

    output: Annotated[str, Field(min_length=1)]
    """The run's folder: config.yaml, log.jsonl, checkpoints/step-<n>/, final/model.safetensors."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random draw is a function of it and of the step, or of the epoch and the image."""
    max_steps: Count | None = None
    """The run ends after this many steps, counted from its beginning; the schedule stays that of all epochs."""
    checkpoint_every_steps: Count = 1000
    """Steps between two checkpoints."""
    checkpoints_kept: Annotated[int, Field(ge=2)] = 3
    """The newest so many checkpoints are kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU where there is one."""
    space: str
    """Name of the search space."""
    data: DataConfig
    optim: OptimConfig
    sandwich: SandwichConfig = SandwichConfig()
    finetune: FineTuneConfig = FineTuneConfig()
    guard: GuardConfig = GuardConfig()
    distributed: DistributedConfig = DistributedConfig()
    validation: ValidationConfig = ValidationConfig()
    log: LogConfig = LogConfig()

    @field_validator("space")
    @classmethod
    def _known_space(cls, name: str) -> str:
        """The space is one that ships."""
        if name not in SPACES:
            raise ValueError(f"no space is called {name!r}; give one of {', '.join(SPACES)}")
        return name

    def to_yaml(self) -> str:
        """The resolved config, in the order of the schema; `load_config` reads it back."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text

    def differences(self, other: TrainConfig) -> list[str]:
        """The settings that give ``other`` different weights, as ``key: ours -> theirs``."""
        ours, theirs = flat(self.model_dump(mode="json")), flat(other.model_dump(mode="json"))
        return [f"{key}: {ours[key]} -> {theirs[key]}" for key in ours if ours[key] != theirs[key] and key not in _FREE]


_FREE = frozenset((
    "output", "max_steps", "checkpoint_every_steps", "checkpoints_kept",
    "log.every_steps", "log.tensorboard", "log.progress", "data.workers", "data.cache", "distributed.timeout_seconds",
    *(f"validation.{name}" for name in ValidationConfig.model_fields),
))  # fmt: skip
"""Settings that may change when a run goes on: they do not touch its weights."""


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def valid_keys(section: type[BaseModel] = TrainConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a config may have."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from valid_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def load_config(recipe: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of a run.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        overrides: ``key=value`` each, dotted keys for the sections, ``null`` for nothing.

    Raises:
        UsageError: No such recipe, no YAML mapping, an unknown key (the nearest valid one is named), or a value of
            the wrong type or out of its domain.
    """
    tree = _read_recipe(recipe)
    for override in overrides:
        _apply(tree, override)
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"config {recipe}: {_first_problem(error)}") from None


def _read_recipe(recipe: str) -> dict[str, Any]:
    """The YAML mapping of a shipped recipe or of a file."""
    path, names = Path(recipe), shipped_recipes()
    if recipe in names:
        text = recipe_text(recipe)
    elif path.is_file():
        text = path.read_text("utf-8", errors="replace")
    else:
        raise UsageError(
            f"no recipe and no file is called {recipe!r}; recipes: {', '.join(names)}{_hint(recipe, names)}"
        )
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{recipe} is no YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{recipe} holds no mapping; give a YAML file like a shipped recipe's")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    """Sets one ``key=value`` in the nested mapping; values stay text for the schema to read."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"{override!r} is no override; write key=value, such as optim.lr=0.2")
    if key not in (keys := list(valid_keys())):
        raise UsageError(f"no setting is called {key!r}{_hint(key, keys)}")
    *sections, name = key.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{section} is {inner!r} in the recipe; a section of settings belongs there")
        tree = inner
    tree[name] = None if value in ("null", "None") else value  # "none" is the name of a loss


def _hint(name: str, names: Sequence[str]) -> str:
    """What was probably meant by ``name``, or nothing."""
    by_ending = {known.rsplit(".", 1)[-1]: known for known in reversed(names)} | {known: known for known in names}
    near = difflib.get_close_matches(name, by_ending, n=1, cutoff=0.0)
    return f"; did you mean {by_ending[near[0]]}?" if near else ""


def _first_problem(error: ValidationError) -> str:
    """The complaint to show, in one line, its key dotted; an unknown key comes before what it leaves missing."""
    problem = min(error.errors(include_url=False), key=lambda entry: entry["type"] != "extra_forbidden")
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"no setting is called {key!r}{_hint(key, list(valid_keys()))}"
    if problem["type"] == "missing":
        return f"{key} is missing; set it in the recipe or give {key}=..."
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
    return f"{key + ': ' if key else ''}{message[0].lower()}{message[1:]}{given}"
