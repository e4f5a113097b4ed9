"""The models of the table: the ImageNet family, and those of timm that it is compared with."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from alphanet_zoo.errors import MissingDependencyError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import IMAGENET_FAMILY, FamilyMember
from alphanet_zoo.zoo.open import HUB_ORG_VARIABLE
from alphanet_zoo.zoo.pins import PINS
from alphanet_zoo.zoo.registry import create_model

PAPER = "Wang et al., 2021, arXiv:2102.07954"
_TIMM_RESULTS = "timm, results/results-imagenet.csv, tag"
_TIMM_CARD = "timm, model card, tag"

COMPARED: tuple[tuple[str, int, float, str], ...] = (
    ("mobilenetv3_large_100", 224, 75.766, f"{_TIMM_RESULTS} ra_in1k"),
    ("efficientnet_b0", 224, 77.694, f"{_TIMM_RESULTS} ra_in1k"),
    ("fbnetv3_b", 256, 79.142, f"{_TIMM_RESULTS} ra2_in1k"),
    ("mobilenetv4_conv_medium", 256, 79.928, f"{_TIMM_CARD} e500_r256_in1k"),
)
"""timm's models: name, side of the input in pixels, and top-1 published for the default weights at that very side."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A classifier to measure.

    Args:
        name: Its name.
        ours: Whether it is of the family.
        size: Side of its square input, in pixels.
        top1: Published ImageNet top-1 in percent, at that side or, of the family, as its paper measures; or None.
        source: Who published that.
        weights: What weights it is measured with: 'random', or where they come from.
        build: Makes the network in eval mode.
    """

    name: str
    ours: bool
    size: int
    top1: float | None
    source: str
    weights: str
    build: Callable[[], nn.Module]


def contenders(patterns: Sequence[str] = ("*",)) -> tuple[Contender, ...]:
    """The models whose names match one of the patterns (with wildcards), the family first.

    Raises:
        UsageError: A pattern matches none.
        MissingDependencyError: timm is wanted and not installed.
    """
    everything = (*map(_ours, IMAGENET_FAMILY), *(_timm(*row) for row in COMPARED))
    for pattern in patterns:
        if not fnmatch.filter([one.name for one in everything], pattern):
            names = ", ".join(one.name for one in everything)
            raise UsageError(f"no model of the table is called {pattern!r}; there is {names}")
    chosen = tuple(one for one in everything if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns))
    if any(not one.ours for one in chosen):
        try:
            import timm  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("timm", "bench") from error
    return chosen


def network_costs(net: nn.Module, size: int) -> tuple[int, int]:
    """Multiply-accumulates of a net's convolutions and linear layers for one image, and its parameters.

    An AlphaNet's are `alphanet_zoo.space.cost.count_macs`. Those of others are counted alike, while one image runs: no
    bias, activation, batch norm, pooling or resize.

    Args:
        net: Any network in eval mode, for images ``(N, 3, size, size)``, that calls its layers as modules.
        size: Side of the image, in pixels.

    Raises:
        ValueError: No layer of the network was called.
    """
    parameters = sum(parameter.numel() for parameter in net.parameters())
    if isinstance(net, AlphaNet):
        return count_macs(net.arch, net.space, net.num_classes), parameters
    macs = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d | nn.Linear)
        macs += output.numel() * module.weight[0].numel()

    handles = [
        module.register_forward_hook(count) for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    if not macs:
        raise ValueError(f"a {type(net).__name__} calls no convolution or linear layer; its cost cannot be counted")
    return macs, parameters


def _ours(member: FamilyMember) -> Contender:
    """A member of the family, with published weights where there are any."""
    published = member.name in PINS or bool(os.environ.get(HUB_ORG_VARIABLE, "").strip())
    return Contender(
        name=member.name,
        ours=True,
        size=member.arch.resolution,
        top1=member.top1,
        source=PAPER,
        weights="published" if published else "random",
        build=partial(create_model, member.name, weights=None if published else "random", pretrained=published),
    )


def _timm(name: str, size: int, top1: float, source: str) -> Contender:
    """A model of timm with made-up weights: nothing is downloaded."""

    def build() -> nn.Module:
        import timm

        net: nn.Module = timm.create_model(name, pretrained=False)
        return fill_live(net).eval()

    return Contender(name, False, size, top1, source, "random", build)
