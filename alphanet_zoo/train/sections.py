"""The groups of settings of a run: how it steps, guards itself, shares its work, validates and speaks."""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from alphanet_zoo.schema import Count, NonNegative, Positive, Section, Share


class OptimConfig(Section):
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
    accumulate: Count = 1
    """Parts that a process takes its share of the batch in, one after the other; batch norm sees a part at a time."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: forward passes under autocast; weights, gradients and losses stay float32."""
    kernels: Literal["torch", "compiled"] = "torch"
    """`compiled`: on a CPU, loops of our own for batch norm with swish and for depthwise convolutions, which a C++
    compiler translates when the run starts; in fp32 and in training only. They round otherwise than PyTorch's."""
    compile: bool = False
    """torch.compile of the two subnets of every step, the largest and the smallest. Meant for a GPU; on a CPU it
    takes minutes to compile. It rounds otherwise than PyTorch's own operators."""
    ema_decay: Share | None = None
    """Decay of an exponential mean of the weights, kept beside them (`final/ema.safetensors`); null keeps none."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> OptimConfig:
        """The warm-up ends before the run does."""
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; give fewer than the {self.epochs} epochs")
        return self

    @model_validator(mode="after")
    def _kernels_suit_the_precision(self) -> OptimConfig:
        """The compiled loops are for float32."""
        if self.kernels == "compiled" and self.precision != "fp32":
            raise ValueError("kernels=compiled computes in fp32; give precision=fp32, or kernels=torch")
        if self.kernels == "compiled" and self.compile:
            raise ValueError("compile=true and kernels=compiled exclude one another; leave one of them out")
        return self


class SandwichConfig(Section):
    """Which subnets a step visits and what each of them learns from."""

    random_subnets: Annotated[int, Field(ge=0)] = 2
    """Random subnets a step, between the largest and the smallest."""
    sampling: Literal["uniform", "best_up", "worst_up"] = "uniform"
    """How they are drawn. `best_up` and `worst_up` (AttentiveNAS): of `candidates` in one window of MACs, drawn as
    often as uniform archs fall into it, the one of the least or the greatest loss on the step's batch."""
    candidates: Annotated[int, Field(ge=2)] = 3
    """Archs that `best_up` and `worst_up` choose from."""
    window: Positive = 25e6
    """Width of their windows, in MACs."""
    loss: Literal["adaptive_alpha", "fixed_alpha", "kl", "none"] = "adaptive_alpha"
    """How the smaller subnets learn from the largest one's logits; `none`: from the labels, as it does. With several
    labels an image (`data.source=multilabel`) the same between yes and no, a label at a time."""
    alpha_min: float = -1.0
    """Lower alpha of the adaptive loss."""
    alpha_max: float = 1.0
    """Upper alpha of the adaptive loss; `fixed_alpha` takes this one alone."""
    clip: Positive = 5.0
    """Bound of the clipped probability ratio in the alpha-divergence (beta)."""
    label_smoothing: Share = 0.1
    """Smoothing of the labels' cross-entropy; with several labels an image, of their binary cross-entropy."""
    drop_rate: Share = 0.0
    """Dropout before the classifier, on the largest subnet only."""
    drop_path_rate: Share = 0.0
    """Drop-connect, on the largest subnet only."""
    resolution_schedule: tuple[tuple[Annotated[float, Field(gt=0.0, le=1.0)], Count], ...] = ()
    """Progressive resolution: pairs of (share of the schedule's steps, largest resolution), such as
    `[[0.6, 16], [0.25, 24], [0.15, 32]]`; the shares sum to 1. Images are resized once per step to that resolution and
    no subnet of the step runs at a larger one. It may be below the smallest resolution of the space. Empty: no cap."""
    teacher: str | None = None
    """File of a trained net with statistics and the same classes that the largest subnet learns from as well."""
    teacher_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Weight of that teacher (by KL) in the largest subnet's loss; the labels have the rest."""

    @field_validator("resolution_schedule", mode="before")
    @classmethod
    def _schedule_from_text(cls, value: object) -> object:
        """An override on the command line is text."""
        try:
            return yaml.safe_load(value) or () if isinstance(value, str) else value
        except yaml.YAMLError:
            raise ValueError("not a list of [share, resolution] pairs, such as [[0.5, 16], [0.5, 32]]") from None

    @field_validator("resolution_schedule")
    @classmethod
    def _shares_sum_to_one(cls, schedule: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        """The phases cover the whole run."""
        total = sum(share for share, _ in schedule)
        if schedule and abs(total - 1.0) > 1e-6:
            raise ValueError(f"the shares sum to {total:g}; they must sum to 1")
        return schedule

    @model_validator(mode="after")
    def _alphas_ascend(self) -> SandwichConfig:
        """The two ends are in order."""
        if self.alpha_min >= self.alpha_max:
            raise ValueError(f"alpha_min is {self.alpha_min} and alpha_max {self.alpha_max}; give the smaller first")
        return self


class FineTuneConfig(Section):
    """One subnet on new data, instead of a supernet from scratch."""

    weights: str | None = None
    """File of a static net, or of a supernet together with `arch`; null trains a supernet of `space`."""
    arch: str | None = None
    """The subnet to take from a supernet: `smallest`, `largest`, or a model's name such as `alphanet_a0`."""

    @model_validator(mode="after")
    def _arch_of_something(self) -> FineTuneConfig:
        """An arch is taken from weights."""
        if self.arch is not None and self.weights is None:
            raise ValueError("arch has no effect without weights; give finetune.weights, the supernet's file")
        return self


class GuardConfig(Section):
    """When a run takes a step back, and when it gives up."""

    skips: Count = 3
    """Steps in a row whose loss or gradient is not finite, none of which is applied, until the run rolls back."""
    rollbacks: Count = 2
    """The run stops with an explanation where this many rollbacks are due."""
    memory_steps: Count = 50
    """Length, in steps, of the exponential mean of the largest subnet's loss against the labels."""
    learnt_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.75
    """The run has learnt once that mean is under this share of the loss of a guess: ln(classes), or with several labels
    an image the mean entropy of the labels' shares."""
    collapse_share: Annotated[float, Field(gt=0.0)] = 0.95
    """A run that had learnt has collapsed when the mean is over this share of it; it then rolls back."""

    @model_validator(mode="after")
    def _shares_ascend(self) -> GuardConfig:
        """Collapse lies above what counts as learnt."""
        if self.learnt_share >= self.collapse_share:
            raise ValueError(
                f"learnt_share is {self.learnt_share}; give less than collapse_share {self.collapse_share}"
            )
        return self


class DistributedConfig(Section):
    """How processes that torchrun started work together."""

    sync_bn: bool = False
    """Batch norm sees the batch over all processes (a part of it, with `accumulate`) and not each process's share: two
    more messages a batch norm, a subnet and a part."""
    bf16_gradients: bool = False
    """Send gradients as bfloat16: half the bytes, and less exact sums."""
    timeout_seconds: Positive = 600.0
    """A process that waits longer than this for the others gives up."""


class ValidationConfig(Section):
    """Accuracy of some subnets, each extracted and calibrated, while the run goes and at its end."""

    every_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs between two validations, the last one after the last step; 0 validates never."""
    archs: tuple[str, ...] = ("smallest", "largest")
    """`smallest`, `largest` or names of models of the space, such as `alphanet_a0`."""
    batch_size: Count = 128
    """Validation images a batch, in each process."""
    calibration_batches: Count = 16
    """Batches of varied training images that batch norm's statistics are averaged over."""
    calibration_batch_size: Count = 256
    """Images of a calibration batch; all training images where there are fewer."""

    @field_validator("archs", mode="before")
    @classmethod
    def _names_in_a_row(cls, value: object) -> object:
        """Names may be given as one text, with commas between them."""
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


class LogConfig(Section):
    """What a run says of itself."""

    every_steps: Count = 10
    """Steps between two lines of `log.jsonl`."""
    tensorboard: bool = False
    """Whether the same figures go to `<output>/tensorboard`."""
    progress: bool = True
    """Whether a progress bar is drawn on standard error."""
