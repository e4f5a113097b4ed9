"""The classifiers of the comparison table: the ImageNet family, and models of timm with their published accuracy."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alphanet_zoo.errors import MissingDependencyError, UsageError
from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.space.presets import IMAGENET_FAMILY, FamilyMember
from alphanet_zoo.zoo.open import HUB_ORG_VARIABLE
from alphanet_zoo.zoo.pins import PINS
from alphanet_zoo.zoo.registry import create_model

PAPER = "Wang et al., 2021, arXiv:2102.07954"
TIMM_RESULTS = "timm, results/results-imagenet.csv at commit 7479d451a6df"
"""In the repository huggingface/pytorch-image-models."""


@dataclass(frozen=True)
class Published:
    """A published ImageNet top-1.

    Args:
        top1: Top-1 in percent of the 50,000 validation images.
        source: The document.
        row: Its entry: the name of the weights.
    """

    top1: float
    source: str
    row: str


COMPARED: tuple[tuple[str, int, float], ...] = (
    ("mobilenetv3_large_100.ra_in1k", 224, 75.786),
    ("mobilenetv4_conv_small.e2400_r224_in1k", 224, 73.730),
    ("fastvit_t8.apple_dist_in1k", 256, 77.172),
    ("efficientnet_b0.ra4_e3600_r224_in1k", 224, 78.572),
    ("fbnetv3_b.ra2_in1k", 256, 79.154),
    ("efficientvit_b1.r224_in1k", 224, 79.240),
    ("mobilenetv4_conv_medium.e500_r256_in1k", 256, 79.922),
    ("mobilenetv4_hybrid_medium.e500_r224_in1k", 224, 80.438),
    ("repvit_m1_0.dist_450e_in1k", 224, 80.446),
)
"""Models of timm: name of the weights, side of the input in pixels, and top-1 at that size in `TIMM_RESULTS`."""

DISTILLED = ("fastvit_t8", "repvit_m1_0")
"""Models of `COMPARED` whose weights were distilled from a larger network."""
MERGED = ("fastvit_t8", "repvit_m1_0")
"""Models of `COMPARED` with parallel branches that are merged before export, as for deployment."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A classifier to measure.

    Args:
        name: Its name.
        ours: Whether it belongs to the AlphaNet family.
        size: Side of its square input, in pixels.
        published: Its published ImageNet top-1, or None if there is none.
        weights: Weights it is measured with: ``random`` or ``published``.
        build: Returns the network in eval mode.
    """

    name: str
    ours: bool
    size: int
    published: Published | None
    weights: str
    build: Callable[[], nn.Module]


def contenders(patterns: Sequence[str] = ("*",)) -> tuple[Contender, ...]:
    """The models whose names match one of the patterns, the AlphaNet family first.

    Args:
        patterns: Names, with shell wildcards.

    Raises:
        UsageError: A pattern matches no model.
        MissingDependencyError: A model of timm is selected and timm is not installed.
    """
    everything = (*map(_ours, IMAGENET_FAMILY), *(_timm(*row) for row in COMPARED))
    for pattern in patterns:
        if not fnmatch.filter([one.name for one in everything], pattern):
            names = ", ".join(one.name for one in everything)
            raise UsageError(
                f"no model of the table is called {pattern!r}; choose from {names}. alphanet verify times other files"
            )
    chosen = tuple(one for one in everything if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns))
    if any(not one.ours for one in chosen):
        try:
            import timm  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("timm", "bench") from error
    return chosen


def network_costs(net: nn.Module, size: int) -> tuple[int, int]:
    """Multiply-accumulates (MACs) per image and number of parameters of a network.

    Counts convolutions, linear layers and the matrix products of attention, without bias, activation, batch norm,
    pooling and resizing. AlphaNets use `alphanet_zoo.space.cost.count_macs`; for other networks, it is half of the
    operations that `torch.utils.flop_counter.FlopCounterMode` counts while one image runs.

    Args:
        net: Network in eval mode, for images ``(N, 3, size, size)``.
        size: Side of the image, in pixels.

    Raises:
        ValueError: The network computes no convolution or matrix product.
    """
    parameters = sum(parameter.numel() for parameter in net.parameters())
    if isinstance(net, Network):
        return net.space.count_macs(net.arch, net.num_classes), parameters
    # The counter does not know the fused attention kernel of CPUs; the plain one computes the same products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, size, size))
    if not counter.get_total_flops():
        raise ValueError(
            f"a {type(net).__name__} computes no convolution or matrix product; its cost cannot be counted"
        )
    return counter.get_total_flops() // 2, parameters


def _ours(member: FamilyMember) -> Contender:
    """A member of the AlphaNet family, with published weights if a source of them is configured."""
    available = member.name in PINS or bool(os.environ.get(HUB_ORG_VARIABLE, "").strip())
    return Contender(
        name=member.name,
        ours=True,
        size=member.arch.resolution,
        published=None if member.top1 is None else Published(member.top1, PAPER, member.name),
        weights="published" if available else "random",
        build=partial(create_model, member.name, weights=None if available else "random", pretrained=available),
    )


def _timm(tagged: str, size: int, top1: float) -> Contender:
    """A model of timm with random weights and its branches merged; nothing is downloaded."""
    name = tagged.partition(".")[0]

    def build() -> nn.Module:
        import timm

        net: nn.Module = fill_live(timm.create_model(name, pretrained=False)).eval()
        if name in MERGED:
            from timm.utils.model import reparameterize_model

            net = reparameterize_model(net)
        return net.eval()

    return Contender(name, False, size, Published(top1, TIMM_RESULTS, tagged), "random", build)
