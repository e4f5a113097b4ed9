"""Builds the net and the losses of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alphanet_zoo.data.draws import torch_seed
from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.config import default_cfg
from alphanet_zoo.nn.losses import BinaryCrossEntropy, KLDistillation, PerLabel
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import SPACES
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.train.config import FineTuneConfig, TrainConfig
from alphanet_zoo.train.sandwich import Losses, distillation_loss, label_loss_of
from alphanet_zoo.zoo.names import find_member
from alphanet_zoo.zoo.open import open_net


def named_arch(name: str, space: SearchSpace) -> ArchSpec:
    """The arch of a space with this name: `smallest`, `largest` or a model name.

    Raises:
        UsageError: The space has no arch of this name.
    """
    if name in ("smallest", "largest"):
        return space.smallest if name == "smallest" else space.largest
    try:
        member = find_member(name)
    except UsageError:
        member = None
    if member is not None and member.space == space:
        return member.arch
    raise UsageError(
        f"{name} is not an arch of the space {space.name}; pass smallest, largest or a model of that space "
        "(several separated by commas, such as validation.archs=smallest,largest)"
    )


def image_cfg(config: TrainConfig) -> dict[str, Any]:
    """Preprocessing for evaluation, under timm's keys. Small images (transform `cifar`) are not cropped."""
    cfg = default_cfg(SPACES[config.space].largest, 0)
    return cfg | {"crop_pct": 1.0} if config.data.transform == "cifar" else cfg


def build_net(config: TrainConfig, classes: Sequence[str]) -> AlphaNet:
    """The net of a run in training mode on the CPU: a supernet, or the subnet to fine-tune.

    Initial weights depend on the seed only. A fine-tuned net keeps its classifier if the class names are the same;
    otherwise it gets a new one.

    Raises:
        UsageError: The file to fine-tune does not match the config.
        AlphaNetError: The file is damaged.
    """
    sandwich, space = config.sandwich, SPACES[config.space]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(config.seed, "weights"))
        if config.finetune.weights is None:
            net = AlphaNet(space.largest, space, len(classes), supernet=True)
        else:
            net = _loaded(config.finetune, config.finetune.weights, space)
            if tuple(net.pretrained_cfg.get("label_names") or ()) != tuple(classes):
                net.reset_classifier(len(classes))
    net.drop_rate, net.drop_path_rate = sandwich.drop_rate, sandwich.drop_path_rate
    net.pretrained_cfg |= {"label_names": tuple(classes), "crop_pct": image_cfg(config)["crop_pct"]}
    net.pretrained_cfg.pop("multi_label", None)
    if config.data.source == "multilabel":
        net.pretrained_cfg["multi_label"] = True
    return net.train()


def _loaded(finetune: FineTuneConfig, path: str, space: SearchSpace) -> AlphaNet:
    """The static net to fine-tune."""
    net = open_net(path).net
    if net.space != space:
        raise UsageError(
            f"{path} contains a net of the space {net.space.name}, but space is {space.name}; "
            f"set space={net.space.name}"
        )
    if net.supernet and finetune.arch is None:
        raise UsageError(f"{path} contains a supernet; pass the subnet to fine-tune, such as finetune.arch=alphanet_a0")
    if finetune.arch is None:
        return net
    arch = named_arch(finetune.arch, space)
    if not net.contains(arch):
        raise UsageError(f"the net in {path} does not contain {finetune.arch}; remove or change finetune.arch")
    return net.extract(arch)


def build_losses(config: TrainConfig, classes: Sequence[str], device: torch.device) -> Losses:
    """The losses of the subnets.

    Raises:
        UsageError: The teacher is a supernet, or its classes differ from those of the images.
    """
    sandwich, teacher = config.sandwich, None
    if sandwich.teacher is not None:
        teacher = open_net(sandwich.teacher).net.to(device).to(memory_format=torch.channels_last)
        names = teacher.pretrained_cfg.get("label_names")
        if teacher.supernet or teacher.calibration is None:
            raise UsageError(f"the teacher {sandwich.teacher} has no batch-norm statistics; pass a calibrated subnet")
        if teacher.num_classes != len(classes) or (names and tuple(names) != tuple(classes)):
            raise UsageError(f"the classes of the teacher {sandwich.teacher} differ from those of the images")
    label, distillation = label_loss_of(sandwich), distillation_loss(sandwich)
    if config.data.source != "multilabel":
        return Losses(label, distillation, teacher, sandwich.teacher_share)
    return Losses(
        BinaryCrossEntropy(sandwich.label_smoothing), None if distillation is None else PerLabel(distillation),
        teacher, sandwich.teacher_share, PerLabel(KLDistillation()),
    )  # fmt: skip


def choose_kernels(net: AlphaNet, config: TrainConfig, device: torch.device) -> None:
    """Sets ``net.kernels`` as the config says.

    Raises:
        UsageError: The compiled ones are asked for, and the run is not on a CPU.
        MissingProgramError: There is no C++ compiler.
        AlphaNetError: It fails.
    """
    if config.optim.kernels == "compiled" and device.type != "cpu":
        raise UsageError(f"optim.kernels=compiled is for the CPU, and the run is on {device.type}; leave it out")
    net.kernels = config.optim.kernels


def chance_loss(labels: Tensor, classes: int, smoothing: float) -> float:
    """Chance-level loss: the best constant prediction.

    Args:
        labels: Labels of all training images: ``(N,)`` class indices, or ``(N, labels)`` of 0 and 1.
        classes: Number of classes or labels.
        smoothing: Label smoothing.

    Returns:
        ln(classes); with multi-label images the mean entropy of the smoothed label frequencies.
    """
    if labels.dim() == 1:
        return math.log(classes)
    frequencies = (1.0 - smoothing) * labels.float().mean(0) + 0.5 * smoothing
    return float(F.binary_cross_entropy(frequencies, frequencies))
