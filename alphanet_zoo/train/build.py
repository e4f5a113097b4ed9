"""Builds the net and the losses of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from alphanet_zoo.data.draws import torch_seed
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.config import default_cfg
from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.losses import BinaryCrossEntropy, KLDistillation, PerLabel
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.named import image_settings, named_slimmable
from alphanet_zoo.slim.supernet import Slimmable
from alphanet_zoo.space.family import Space
from alphanet_zoo.train.config import NET, SUPERNET, FineTuneConfig, NetConfig, TrainConfig
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.sandwich import Losses, distillation_loss, label_loss_of
from alphanet_zoo.train.teacher import open_teacher
from alphanet_zoo.zoo.archs import NamedArch, find_arch
from alphanet_zoo.zoo.built import with_classes
from alphanet_zoo.zoo.open import open_net


def named_arch(arch: str | Mapping[str, Any], space: Space[Any], setting: str = "arch") -> Any:
    """The arch of a space that a setting selects.

    Args:
        arch: `smallest`, `largest`, the name of a model, a file (see `alphanet_zoo.zoo.archs.find_arch`), or the arch
            as a mapping.
        space: The search space.
        setting: Name of the setting, for the message.

    Raises:
        UsageError: The space has no such arch.
    """
    try:
        found = NamedArch("", space.read_arch(arch)) if isinstance(arch, Mapping) else find_arch(arch, space)
        if found.member is None or found.member.space == space:
            return space.validate(found.arch)
    except (AlphaNetError, ValueError) as error:
        raise UsageError(f"{setting}: {error}") from error
    raise UsageError(
        f"{setting}: {arch} is not an arch of the space {space.name}; pass smallest, largest, a model of that space, "
        "or a JSON file of alphanet search --best"
    )


def image_cfg(config: TrainConfig, net: Network | None = None) -> dict[str, Any]:
    """Preprocessing for evaluation, under timm's keys. Small images (transform `cifar`) are not cropped.

    Args:
        config: The config of a run.
        net: The network of the run, if it exists; a slimmable network to fine-tune is otherwise opened for it.
    """
    if config.net is None and config.space == NET:
        cfg = (finetuned_net(config.finetune) if net is None else net).pretrained_cfg
    elif config.net is None:
        cfg = default_cfg(config.search_space.largest, 0)
    else:
        size = config.data.image_size
        cfg = default_cfg(SlimArch(size, (1.0,)), 0) | {"input_size": (3, size, size)} | image_settings(config.net.name)
    return cfg | {"crop_pct": 1.0} if config.data.transform == "cifar" else cfg


def build_net(config: TrainConfig, classes: Sequence[str]) -> Network:
    """The net of a run in training mode on the CPU: a supernet, new or to fine-tune, or the subnet to fine-tune.

    Initial weights depend on the seed only. A fine-tuned net keeps its classifier if the class names are the same;
    otherwise it gets a new one.

    Raises:
        UsageError: The file to fine-tune does not match the config.
        AlphaNetError: The file is damaged.
    """
    sandwich = config.sandwich
    if config.net is not None:
        net: Network = _slimmable(config, config.net, len(classes))
    else:
        net = _alphanet(config, classes) if config.finetune.net is None else _finetuned(config, classes)
    net.drop_rate, net.drop_path_rate = sandwich.drop_rate, sandwich.drop_path_rate
    net.pretrained_cfg |= {"label_names": tuple(classes), "crop_pct": image_cfg(config, net)["crop_pct"]}
    net.pretrained_cfg.pop("multi_label", None)
    if config.data.source == "multilabel":
        net.pretrained_cfg["multi_label"] = True
    return net.train()


def _alphanet(config: TrainConfig, classes: Sequence[str]) -> AlphaNet:
    """A new supernet of the space."""
    space = config.search_space
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(config.seed, "weights"))
        return AlphaNet(space.largest, space, len(classes), supernet=True)


def _finetuned(config: TrainConfig, classes: Sequence[str]) -> Network:
    """The net to fine-tune."""
    net = finetuned_net(config.finetune)
    if config.space != NET and net.space != config.search_space:
        raise UsageError(
            f"{config.finetune.net} contains a net of the space {net.space.name}, but space is "
            f"{config.search_space.name}; set space=net"
        )
    if config.space == NET and config.slimmable_refusal is not None:
        raise UsageError(config.slimmable_refusal)
    if tuple(net.pretrained_cfg.get("label_names") or ()) == tuple(classes):
        return net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(config.seed, "weights"))
        return with_classes(net, len(classes))


def _slimmable(config: TrainConfig, net: NetConfig, num_classes: int) -> Slimmable:
    """The supernet of the section `net`."""
    size = config.data.image_size
    return named_slimmable(
        net.name, num_classes, (3, size, size), widths=net.widths, divisor=net.divisor, tie=net.tie, depth=net.depth,
        resolutions=net.resolutions or None, keep=net.keep, weights=net.weights,
        importance=None if net.importance == "data" else net.importance, seed=torch_seed(config.seed, "weights"),
    )  # fmt: skip


def order_channels(net: Network, config: TrainConfig, ranks: Ranks, images: Callable[[], Tensor]) -> None:
    """Sorts the channels of pretrained weights for ``net.importance=data``, equally in all processes.

    Args:
        net: The result of `build_net`; it is moved to the device of the process.
        config: The config of the run.
        ranks: The processes.
        images: Returns normalised training images ``(N, C, H, W)``; called in the first process.
    """
    if config.net is None or config.net.weights is None or config.net.importance != "data":
        return
    supernet = cast(Slimmable, net.to(ranks.device))
    supernet.reorder(ranks.from_first(lambda: supernet.choose_measures(images())))


def finetuned_net(finetune: FineTuneConfig) -> Network:
    """The net to fine-tune: static, or a supernet for ``finetune.arch=supernet``.

    Raises:
        UsageError: The net does not exist, it is a supernet without the subnet of the config, or it is static and
            ``finetune.arch=supernet``.
        AlphaNetError: It cannot be read or downloaded.
    """
    assert finetune.net is not None
    net = open_net(finetune.net).net
    if finetune.arch == SUPERNET:
        if not net.supernet:
            raise UsageError(f"{finetune.net} contains a single subnet; remove finetune.arch=supernet")
        return net
    if net.supernet and finetune.arch is None:
        raise UsageError(
            f"{finetune.net} contains a supernet; pass the subnet to fine-tune: finetune.arch=smallest, largest, a "
            "model name, an entry of a front (front.json#2) or a JSON file of alphanet search --best; "
            "finetune.arch=supernet fine-tunes all of them"
        )
    if finetune.arch is None:
        return net
    arch = named_arch(finetune.arch, net.space, "finetune.arch")
    if not net.contains(arch):
        raise UsageError(
            f"the net in {finetune.net} does not contain the subnet of finetune.arch; remove or change finetune.arch"
        )
    return net.subnet(arch)


def build_losses(config: TrainConfig, classes: Sequence[str], device: torch.device) -> Losses:
    """The losses of the subnets.

    Raises:
        UsageError: The teacher is a supernet, does not exist, or has other classes than the images.
    """
    sandwich, teacher = config.sandwich, None
    if sandwich.teacher is not None:
        cfg = image_cfg(config)
        teacher = open_teacher(
            sandwich.teacher, classes, weights=sandwich.teacher_weights, mean=cfg["mean"], std=cfg["std"],
            size=config.data.image_size or cfg["input_size"][-1], device=device,
        )  # fmt: skip
        if teacher.runs_a_file and config.optim.cuda_graphs:
            raise UsageError(
                f"the teacher {sandwich.teacher} is a file, which CUDA graphs cannot run; pass optim.cuda_graphs=false"
            )
    label, distillation = label_loss_of(sandwich), distillation_loss(sandwich)
    if config.data.source != "multilabel":
        return Losses(label, distillation, teacher, sandwich.teacher_share)
    return Losses(
        BinaryCrossEntropy(sandwich.label_smoothing), None if distillation is None else PerLabel(distillation),
        teacher, sandwich.teacher_share, PerLabel(KLDistillation()),
    )  # fmt: skip


def choose_kernels(net: Network, config: TrainConfig, device: torch.device) -> None:
    """Sets ``net.kernels`` as the config says.

    Raises:
        UsageError: They are asked for and the run is not on a CPU, or CUDA graphs and it is not on a GPU.
        MissingProgramError: There is no C++ compiler.
        AlphaNetError: It fails.
    """
    if config.optim.cuda_graphs and device.type != "cuda":
        raise UsageError(f"optim.cuda_graphs requires a GPU, and the run is on {device.type}; leave it out")
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
