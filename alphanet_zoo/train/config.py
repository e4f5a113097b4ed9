"""Configuration of a training run: typed sections, recipes in YAML and ``key=value`` overrides. Loads no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import read_yaml
from alphanet_zoo.recipes import recipe_text, shipped_recipes
from alphanet_zoo.schema import Count, NonNegative, Positive, Section, Share, section_in
from alphanet_zoo.space.custom import find_space
from alphanet_zoo.space.presets import SPACES
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.train.guard import GuardConfig
from alphanet_zoo.units import parse_count
from alphanet_zoo.zoo.archs import ENDS, find_arch
from alphanet_zoo.zoo.names import is_name

AUTO, NET = "auto", "net"
"""Values of `space`: fit one to the images; take that of the net to fine-tune."""
SUPERNET = "supernet"
"""Value of `finetune.arch`: every subnet."""

Macs = Annotated[float, Field(gt=0.0), BeforeValidator(lambda v: parse_count(v) if isinstance(v, str) else v)]
"""A cost such as ``60M``, in multiply-accumulates."""


class OptimConfig(Section):
    """SGD with a cosine or linear schedule and linear warm-up."""

    lr: Positive
    """Peak learning rate for a batch of `lr_batch` images. The peak of the run is lr x batch_size / lr_batch."""
    lr_batch: Count | None = None
    """Batch size that `lr` refers to; null uses `lr` unscaled."""
    epochs: Count
    """Length of the schedule in epochs. An incomplete last batch of an epoch is dropped."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """Decay of the learning rate to 0 over the schedule."""
    warmup_epochs: NonNegative = 0.0
    """Length of the warm-up in epochs; may be fractional."""
    momentum: Share = 0.9
    """Nesterov momentum."""
    weight_decay: NonNegative = 1e-5
    """L2 weight decay. Not applied to batch norms and biases."""
    clip_value: Positive | None = 1.0
    """Clip each entry of the summed gradient to this magnitude, once per step; null disables clipping."""
    accumulate: Count = 1
    """Micro-batches per process per step. Batch norm sees one micro-batch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: forward passes under autocast. Weights, gradients and losses stay float32."""
    kernels: Literal["torch", "compiled"] = "torch"
    """`compiled`: C++ kernels for batch norm with swish and for depthwise convolutions, for CPU training in fp32. They
    require a C++ compiler, which runs when the training starts. Results differ from PyTorch's by rounding."""
    compile: bool = False
    """Apply torch.compile to the largest and the smallest subnet, which run in every step. Meant for GPUs; on a CPU it
    takes minutes to compile. Results differ from eager mode by rounding."""
    cuda_graphs: bool = False
    """Run the passes of the largest and the smallest subnet as CUDA graphs, which launch all kernels of a pass at once;
    in a space of at most 64 archs, those of all subnets. GPU only; faster if the GPU waits for Python, as with small
    images. The results are the same."""
    ema_decay: Share | None = None
    """Decay of the exponential moving average of the weights (`final/ema.safetensors`); null disables it."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> OptimConfig:
        """The warm-up must be shorter than the schedule."""
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; pass less than epochs ({self.epochs})")
        return self

    @model_validator(mode="after")
    def _graphs_or_compile(self) -> OptimConfig:
        """Both settings are for the same subnets."""
        if self.cuda_graphs and self.compile:
            raise ValueError("compile and cuda_graphs cannot be combined; pass one of them")
        return self

    @model_validator(mode="after")
    def _kernels_suit_the_precision(self) -> OptimConfig:
        """The compiled kernels support float32 only."""
        if self.kernels == "compiled" and self.precision != "fp32":
            raise ValueError("kernels=compiled requires precision=fp32; pass precision=fp32 or kernels=torch")
        return self


class SandwichConfig(Section):
    """The subnets of a step and their losses."""

    random_subnets: Annotated[int, Field(ge=0)] = 2
    """Number of random subnets per step, in addition to the largest and the smallest."""
    sampling: Literal["uniform", "best_up", "worst_up"] = "uniform"
    """How random subnets are chosen. `best_up` and `worst_up` (AttentiveNAS): draw `candidates` archs from one window
    of MACs and take the one with the least or the greatest loss on the batch of the step. Windows are drawn as often
    as uniform archs fall into them."""
    candidates: Annotated[int, Field(ge=2)] = 3
    """Number of archs that `best_up` and `worst_up` choose from."""
    window: Positive = 25e6
    """Width of the windows of `best_up` and `worst_up`, in MACs."""
    loss: Literal["adaptive_alpha", "fixed_alpha", "kl", "none"] = "adaptive_alpha"
    """Distillation loss of the smaller subnets against the logits of the largest. `none`: they learn from the labels.
    With `data.source=multilabel` the loss is applied to each label, as a distribution of yes and no."""
    alpha_min: float = -1.0
    """Lower alpha of the adaptive loss."""
    alpha_max: float = 1.0
    """Upper alpha of the adaptive loss; the alpha of `fixed_alpha`."""
    clip: Positive = 5.0
    """Upper bound of the probability ratio in the alpha-divergence (beta)."""
    label_smoothing: Share = 0.1
    """Label smoothing of the cross-entropy, or of the binary cross-entropy with multi-label images."""
    drop_rate: Share = 0.0
    """Dropout before the classifier. Applied to the largest subnet only."""
    drop_path_rate: Share = 0.0
    """Drop-connect (stochastic depth). Applied to the largest subnet only."""
    resolution_schedule: tuple[tuple[Annotated[float, Field(gt=0.0, le=1.0)], Count], ...] = ()
    """Progressive resolution: pairs of (share of the schedule's steps, largest resolution), such as
    `[[0.6, 16], [0.25, 24], [0.15, 32]]`; the shares must sum to 1. Images are resized to that resolution once per
    step, and no subnet runs at a larger one. It may be below the smallest resolution of the space. Empty: no limit."""
    teacher: str | None = None
    """A trained classifier from which the largest subnet also learns: `timm/NAME`, `torchvision/NAME` or
    `module:function` (see `net.name`), an exported file (.onnx, .ort, .xml, .pte, .pt2), or a static net of this
    package: a model name, file, run, folder or Hub repository. It must have the classes of the images; they are matched
    by name."""
    teacher_weights: str | None = None
    """File with the state dict of a teacher `timm/NAME`, `torchvision/NAME` or `module:function` (.safetensors, .pt or
    .pth). null: the published weights of timm or torchvision."""
    teacher_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Weight of the `teacher` (KL) in the loss of the largest subnet; the labels get the rest."""

    @field_validator("resolution_schedule")
    @classmethod
    def _shares_sum_to_one(cls, schedule: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        """The phases must cover the whole run."""
        total = sum(share for share, _ in schedule)
        if schedule and abs(total - 1.0) > 1e-6:
            raise ValueError(f"the shares sum to {total:g}; they must sum to 1")
        return schedule

    @model_validator(mode="after")
    def _weights_are_those_of_a_teacher(self) -> SandwichConfig:
        """``teacher_weights`` requires ``teacher``."""
        if self.teacher_weights is not None and self.teacher is None:
            raise ValueError(
                "teacher_weights has no effect without teacher; set sandwich.teacher to the network's name"
            )
        return self

    @model_validator(mode="after")
    def _alphas_ascend(self) -> SandwichConfig:
        """``alpha_min`` must be below ``alpha_max``."""
        if self.alpha_min >= self.alpha_max:
            raise ValueError(f"alpha_min is {self.alpha_min} and alpha_max {self.alpha_max}; alpha_min must be smaller")
        return self


class FineTuneConfig(Section):
    """Fine-tuning of a single subnet, or of a whole supernet."""

    model: str | None = None
    """Name of a model whose weights are included in the package or published, such as `alphanet_a0`."""
    weights: str | None = None
    """A static net, or a supernet together with `arch`: a file, the output folder of a run, a folder of
    `save_pretrained` or a Hub repository. Without `model` and `weights`, a supernet of `space` is trained."""
    arch: str | dict[str, Any] | None = None
    """The subnet to extract from a supernet: `smallest`, `largest`, a model name such as `alphanet_a0`, a JSON file
    such as the one of `alphanet search --best`, or an entry of a front (`front.json#3`). `supernet`: none; training
    of the whole supernet starts from its weights."""

    @field_validator("arch", mode="before")
    @classmethod
    def _read_arch(cls, value: object) -> object:
        """Replaces the path of a file by its arch."""
        if not isinstance(value, str) or value in (SUPERNET, *ENDS) or is_name(value):
            return value
        try:
            return find_arch(value).arch.to_dict()
        except AlphaNetError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _one_net(self) -> FineTuneConfig:
        """``model`` and ``weights`` exclude each other, and ``arch`` requires ``weights``."""
        if self.model is not None and self.weights is not None:
            raise ValueError(
                f"model and weights exclude each other; to fine-tune {self.model} of a supernet, set finetune.arch="
                f"{self.model} and remove finetune.model"
            )
        if self.arch is not None and self.weights is None:
            raise ValueError("arch has no effect without weights; set finetune.weights to the supernet's file")
        return self

    @property
    def net(self) -> str | None:
        """What `alphanet_zoo.zoo.open.open_net` opens; None if training starts from random weights."""
        return self.model or self.weights

    @property
    def single(self) -> bool:
        """Whether a single subnet is fine-tuned."""
        return self.net is not None and self.arch != SUPERNET


class NetConfig(Section):
    """The network to make slimmable. ``net=NAME`` sets `name`."""

    name: Annotated[str, Field(min_length=1)]
    """The network: `timm/NAME`, `torchvision/NAME`, or `module:function`, a function that takes `num_classes` and
    returns a torch.nn.Module. The module may be a file in the current folder."""
    weights: str | None = None
    """File with the network's state dict (.safetensors, .pt or .pth), or `pretrained` to download the weights of timm
    or torchvision. A classifier for other classes is not loaded. null: random weights."""
    widths: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (0.25, 1.0)
    """Least and greatest share of the channels, in steps of 0.025; three or more values are the choices themselves."""
    divisor: Count = 8
    """Numbers of channels are multiples of this."""
    tie: Literal["uniform", "stage"] | None = "uniform"
    """`uniform`: one width for the network; `stage`: one per stage; null: one for each group of channels."""
    depth: bool = False
    """Whether residual blocks that keep the shape of their input can be dropped, up to half of each stage."""
    resolutions: tuple[Count, ...] = ()
    """Choices of the resolution, of which `data.image_size` must be the largest; empty: `data.image_size` only."""
    keep: tuple[str, ...] = ()
    """Names of layers, or of containers of layers, that keep all of their output channels, such as `[layer1]`."""
    importance: Literal["norm", "l1", "data"] | None = "data"
    """Order of the channels of pretrained weights before training, the most important first: `norm` (weights of the
    batch norms), `l1` (L1 norms of the weights), `data` (for each group of channels, the one of the two that changes
    the predictions on training images less) or null (as they are)."""


class DistributedConfig(Section):
    """Training on several processes started by torchrun."""

    sync_bn: bool = False
    """Synchronise batch norm over all processes: statistics cover the micro-batches of all processes. Costs two small
    messages per batch norm, subnet and micro-batch."""
    bf16_gradients: bool = False
    """Average gradients in bfloat16: half the bytes, less exact sums."""
    timeout_seconds: Positive = 600.0
    """A process fails if it waits longer than this for the others."""


class ValidationConfig(Section):
    """Accuracy of extracted, calibrated subnets during and after training."""

    every_epochs: Annotated[int, Field(ge=0)] = 0
    """Validate every N epochs and at the end; 0 disables."""
    archs: tuple[str, ...] = ("smallest", "largest")
    """Subnets to validate: `smallest`, `largest`, model names of the space such as `alphanet_a0`, or JSON files."""
    batch_size: Count = 128
    """Validation images per batch and process."""
    calibration_batches: Count = 16
    """Number of batches of training images for batch-norm calibration."""
    calibration_batch_size: Count = 256
    """Maximum number of images per calibration batch."""

    @field_validator("archs", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        """Accepts names as one string, separated by commas."""
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


class LogConfig(Section):
    """Logging."""

    every_steps: Count = 10
    """Write a line to `log.jsonl` every N steps."""
    tensorboard: bool = False
    """Also write the metrics to `<output>/tensorboard`. Requires the `train` extra."""
    progress: bool = True
    """Report the progress on standard error: a bar on a terminal, otherwise a line every `every_steps` steps."""


class TrainConfig(Section):
    """All settings of a run. The same config and data give the same weights."""

    output: Annotated[str, Field(min_length=1)]
    """Output folder: `config.yaml`, `log.jsonl`, `run.html`, `checkpoints/step-<n>/`, `final/model.safetensors`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Random seed. Every random draw depends only on the seed and the step, or the seed, the epoch and the image."""
    max_steps: Count | None = None
    """Stop after this many steps, counted from the start of the run. Does not change the learning-rate schedule."""
    checkpoint_every_steps: Count = 1000
    """Save a checkpoint every N steps."""
    checkpoints_kept: Annotated[int, Field(ge=2)] = 3
    """Number of checkpoints to keep; older ones are deleted."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU if there is one, else the CPU."""
    space: str | dict[str, Any]
    """The search space: a name, the path of a YAML file, `auto` or `net`. `auto` selects a space by the size of the
    images and `budget`; `net` takes that of the net to fine-tune."""
    budget: Macs = 150e6
    """Maximum cost of the largest subnet of `space=auto`, in MACs per image, such as `60M`."""
    data: DataConfig
    optim: OptimConfig
    sandwich: SandwichConfig = SandwichConfig()
    finetune: FineTuneConfig = FineTuneConfig()
    net: NetConfig | None = None
    """The network to make slimmable; null trains an AlphaNet of `space`. Requires `space=net`."""
    guard: GuardConfig = GuardConfig()
    distributed: DistributedConfig = DistributedConfig()
    validation: ValidationConfig = ValidationConfig()
    log: LogConfig = LogConfig()

    @field_validator("net", mode="before")
    @classmethod
    def _net_by_name(cls, value: object) -> object:
        """Accepts the name of the network for the section."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _net_defines_the_space(self) -> TrainConfig:
        """A slimmable network defines its search space."""
        if self.net is None:
            return self
        if self.space != NET:
            raise ValueError("net defines the search space; pass space=net, or net=null to train an AlphaNet of space")
        if self.finetune.net is not None:
            raise ValueError("net and finetune both name a network; pass one of them")
        if not self.data.image_size:
            raise ValueError("data.image_size is 0, and net requires the size of its images; pass data.image_size=64")
        if self.slimmable_refusal is not None:
            raise ValueError(self.slimmable_refusal)
        if self.net.resolutions and self.net.resolutions[-1] != self.data.image_size:
            raise ValueError(
                f"net.resolutions is {list(self.net.resolutions)}, and data.image_size is {self.data.image_size}; "
                "their largest value must be the same"
            )
        return self

    @model_validator(mode="after")
    def _graphs_need_a_supernet(self) -> TrainConfig:
        """CUDA graphs contain no messages between processes, and no running statistics of a fine-tuned net."""
        if self.optim.cuda_graphs and (self.finetune.single or self.distributed.sync_bn):
            raise ValueError(
                "optim.cuda_graphs requires training a supernet, and distributed.sync_bn=false; pass "
                "optim.cuda_graphs=false"
            )
        return self

    @field_validator("space", mode="before")
    @classmethod
    def _resolve_space(cls, value: object) -> object:
        """The name of a preset, or the choices of another space as plain values."""
        if value in (AUTO, NET) or not isinstance(value, str | Mapping):
            return value
        space = find_space(value)
        return space.name if space.name in SPACES else space.to_dict()

    @model_validator(mode="after")
    def _image_size_fits_the_space(self) -> TrainConfig:
        """The training images must not be smaller than the space's resolutions; networks resize larger ones."""
        if self.space not in (AUTO, NET) and self.data.image_size:
            low, high = (pick(self.search_space.resolution) for pick in (min, max))
            if self.data.image_size < low:
                raise ValueError(
                    f"data.image_size is {self.data.image_size}, and the space {self.search_space.name} has "
                    f"resolutions from {low} to {high}; pass data.image_size=0 to use {high}, or another space"
                )
        return self

    @property
    def search_space(self) -> SearchSpace:
        """The search space.

        Raises:
            UsageError: `space` is `auto` or `net`. `alphanet_zoo.train.prepare.prepare` replaces it, unless the network
                of the section `net` defines the space.
        """
        return find_space(self.space)

    @property
    def slimmable_refusal(self) -> str | None:
        """Why slimmable networks cannot be trained with these settings; None if they can."""
        settings = {"distributed.sync_bn": self.distributed.sync_bn, "optim.compile": self.optim.compile}
        refused = (f"{name} is not supported with slimmable networks; pass {name}=false" for name in settings
                   if settings[name])  # fmt: skip
        return next(refused, None)

    def to_yaml(self) -> str:
        """The resolved config in the order of the schema; `load_config` reads it."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text

    def differences(self, other: TrainConfig) -> list[str]:
        """The settings that give ``other`` different weights, as ``key: own value -> other value``."""
        own, others = flat(self.model_dump(mode="json")), flat(other.model_dump(mode="json"))
        fixed = (key for key in own | others if affects_weights(key))
        pairs = ((key, own.get(key), others.get(key)) for key in fixed)
        return [f"{key}: {before} -> {after}" for key, before, after in pairs if before != after]


_WITHOUT_EFFECT_ON_WEIGHTS = frozenset((
    "output", "budget", "max_steps", "checkpoint_every_steps", "checkpoints_kept",
    "log.every_steps", "log.tensorboard", "log.progress", "data.workers", "data.cache", "distributed.timeout_seconds",
    *(f"validation.{name}" for name in ValidationConfig.model_fields),
))  # fmt: skip
"""Settings that may change when a run is resumed."""


def affects_weights(key: str) -> bool:
    """Whether a setting, by its dotted key, must not change when a run is resumed."""
    return key not in _WITHOUT_EFFECT_ON_WEIGHTS


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as a flat one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def valid_keys(section: type[BaseModel] = TrainConfig, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a config."""
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        yield from (f"{prefix}{name}",) if inner is None else valid_keys(inner, f"{prefix}{name}.")


def load_config(recipe: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads the config of a run.

    Args:
        recipe: Name of a recipe in the package, or path of a YAML file.
        overrides: ``key=value`` each, with dotted keys; ``null`` unsets a setting, lists are written as in YAML.

    Raises:
        UsageError: The recipe does not exist or is not a YAML mapping, a key is unknown (the message names the nearest
            valid one), or a value has a wrong type or is out of range.
    """
    tree = _read_recipe(recipe)
    for override in overrides:
        _apply(tree, override)
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"config {recipe}: {_first_problem(error)}") from None


def _read_recipe(recipe: str) -> dict[str, Any]:
    """The YAML mapping of a recipe of the package or of a file."""
    path, names = Path(recipe), shipped_recipes()
    if recipe in names:
        tree = yaml.safe_load(recipe_text(recipe))
    elif path.is_file():
        tree = read_yaml(path)
    else:
        hint = "" if path.name != recipe or path.suffix else nearest(recipe, names)
        raise UsageError(f"no recipe or file named {recipe!r}; recipes: {', '.join(names)}{hint}")
    if not isinstance(tree, dict):
        raise UsageError(f"{recipe} does not contain a mapping of settings; pass a YAML file like those of the recipes")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    """Sets one ``key=value`` in the nested mapping."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"{override!r} is not a setting; write key=value, such as optim.lr=0.2")
    if key == "net" and _parsed(value) is not None:
        key = "net.name"
    if key not in (keys := [*valid_keys(), "net"]):
        raise UsageError(f"unknown setting {key!r}{nearest(key, keys)}")
    *sections, name = key.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if section == "net" and not isinstance(inner, dict):
            inner = tree[section] = {} if inner is None else {"name": inner}
        if not isinstance(inner, dict):
            raise UsageError(f"{section} is {inner!r} in the recipe; it must be a mapping of settings")
        tree = inner
    tree[name] = _parsed(value)


def _parsed(text: str) -> Any:
    """The value of an override: None and lists as in YAML. Other text is left to the schema, which knows the type."""
    if text in ("null", "None"):  # "none" is the name of a loss
        return None
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return value if isinstance(value, list) else text


def nearest(name: str, names: Sequence[str]) -> str:
    """The valid name nearest to ``name``, as the end of a message."""
    by_ending = {known.rsplit(".", 1)[-1]: known for known in reversed(names)} | {known: known for known in names}
    near = difflib.get_close_matches(name, by_ending, n=1, cutoff=0.0)
    return f"; did you mean {by_ending[near[0]]}?" if near else ""


def _first_problem(error: ValidationError) -> str:
    """One line about the first problem, with its dotted key. Unknown keys come before the settings they may mean."""
    problem = min(error.errors(include_url=False), key=lambda entry: entry["type"] != "extra_forbidden")
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {key!r}{nearest(key, list(valid_keys()))}"
    if problem["type"] == "missing":
        return f"{key} is missing; set it in the recipe or pass {key}=..."
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "tuple_type":
        message = "pass a list, such as [a,b]"
    given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
    return f"{key + ': ' if key else ''}{message[0].lower()}{message[1:]}{given}"
