"""A training run as a typed value: YAML, ``key=value`` overrides, and errors that name the nearest valid key.

No torch here: a wrong command line is refused at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from alphanet_zoo.errors import UsageError
from alphanet_zoo.space.presets import SPACES

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class _Section(BaseModel):
    """A frozen group of settings that refuses unknown keys, infinities and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class DataConfig(_Section):
    """Where the training images come from and how they are varied."""

    root: Annotated[str, Field(min_length=1)]
    """The folder (for `webdataset` also an address such as `https://host/folder`) that `train` and `val` are in."""
    source: Literal["folder", "digits", "cifar10", "webdataset"] = "folder"
    """`folder`: `<class>/<image>`. `digits`: the same, and scikit-learn's handwritten digits are first written to `root`
    if it does not exist. `cifar10`: `root` has `cifar-10-batches-py`, or is a folder as above. `webdataset`: shards."""
    train: Annotated[str, Field(min_length=1)] = "train"
    """Training images in `root`; for shards their names, such as `train-{0000..1280}.tar`."""
    val: Annotated[str, Field(min_length=1)] = "val"
    """Validation images, alike; training does not read them."""
    cache: str | None = None
    """Folder that shards of an address are fetched into, whole."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that make batches ahead; 0 makes them between the steps. The batches are the same."""
    engine: Literal["torch", "dali"] = "torch"
    """`dali` decodes and varies on the GPU (the `dali` extra; a folder and the `imagenet` transform only)."""
    image_size: Count
    """Side of the training images in pixels; every subnet resizes them to its own resolution."""
    batch_size: Count
    """Images a step, over all processes."""
    transform: Literal["affine", "imagenet", "cifar"] = "affine"
    """`affine`: centre crop, then `rotate_degrees`, `shift` and `zoom`. `imagenet`: random resized crop and flip.
    `cifar`: random crop with a border of 4 pixels and flip."""
    autoaugment: bool = False
    """AutoAugment after the flip: the ImageNet or the CIFAR-10 policy, by `transform`."""
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Each image turns by a uniform angle up to this, either way."""
    shift: Share = 0.0
    """Each image moves by a uniform share of its side up to this, along each axis."""
    zoom: Share = 0.0
    """Each image scales by a uniform factor from 1 - zoom to 1 + zoom."""

    @model_validator(mode="after")
    def _settings_agree(self) -> DataConfig:
        """No setting is given that the others leave without effect."""
        moves = {name: getattr(self, name) for name in ("rotate_degrees", "shift", "zoom") if getattr(self, name)}
        if self.transform != "affine" and moves:
            raise ValueError(f"{', '.join(moves)} have no effect in transform {self.transform}; leave them 0")
        if self.transform == "affine" and self.autoaugment:
            raise ValueError("autoaugment has no effect in transform affine; give transform=imagenet or cifar")
        if self.engine == "dali" and (self.source != "folder" or self.transform != "imagenet"):
            raise ValueError("engine dali takes source=folder and transform=imagenet; give engine=torch")
        return self


class OptimConfig(_Section):
    """SGD and its schedule: linear warm-up times one cosine over the whole run."""

    lr: Positive
    """Peak learning rate, for a batch of `lr_batch` images: the run's peak is lr x batch_size / lr_batch."""
    lr_batch: Count | None = None
    """The batch that `lr` is meant for; null takes `lr` as it stands."""
    epochs: Count
    """Length of the schedule; an epoch is as many whole batches as the images give."""
    warmup_epochs: NonNegative = 0.0
    """Length of the warm-up; a share of an epoch is possible."""
    momentum: Share = 0.9
    """Nesterov momentum."""
    weight_decay: NonNegative = 1e-5
    """L2 decay; batch norms and biases have none."""
    clip_value: Positive | None = 1.0
    """Every entry of the summed gradient is clipped to this magnitude, once a step; null clips nothing."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> OptimConfig:
        """The warm-up ends before the run does."""
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; give fewer than the {self.epochs} epochs")
        return self


class SandwichConfig(_Section):
    """Which subnets a step visits and what each of them learns from."""

    random_subnets: Annotated[int, Field(ge=0)] = 2
    """Uniform random subnets a step, between the largest and the smallest."""
    loss: Literal["adaptive_alpha", "fixed_alpha", "kl", "none"] = "adaptive_alpha"
    """How the smaller subnets learn from the largest one's logits; `none`: from the labels, as it does."""
    alpha_min: float = -1.0
    """Lower alpha of the adaptive loss."""
    alpha_max: float = 1.0
    """Upper alpha of the adaptive loss; `fixed_alpha` takes this one alone."""
    clip: Positive = 5.0
    """Bound of the clipped probability ratio in the alpha-divergence (beta)."""
    label_smoothing: Share = 0.1
    """Smoothing of the labels' cross-entropy."""
    drop_rate: Share = 0.0
    """Dropout before the classifier, on the largest subnet only."""
    drop_path_rate: Share = 0.0
    """Drop-connect, on the largest subnet only."""

    @model_validator(mode="after")
    def _alphas_ascend(self) -> SandwichConfig:
        """The two ends are in order."""
        if self.alpha_min >= self.alpha_max:
            raise ValueError(f"alpha_min is {self.alpha_min} and alpha_max {self.alpha_max}; give the smaller first")
        return self


class LogConfig(_Section):
    """What a run says of itself."""

    every_steps: Count = 10
    """Steps between two lines of `log.jsonl`."""
    tensorboard: bool = False
    """Whether the same figures go to `<output>/tensorboard`."""
    progress: bool = True
    """Whether a progress bar is drawn on standard error."""


class TrainConfig(_Section):
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
    "log.every_steps", "log.tensorboard", "log.progress", "data.workers", "data.cache",
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


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("alphanet_zoo.recipes")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


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
        text = (resources.files("alphanet_zoo.recipes") / f"{recipe}.yaml").read_text("utf-8")
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
    tree[name] = None if value in ("null", "none", "None") else value


def _hint(name: str, names: Sequence[str]) -> str:
    """What was probably meant by ``name``, or nothing."""
    by_ending = {known.rsplit(".", 1)[-1]: known for known in names} | {known: known for known in names}
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
