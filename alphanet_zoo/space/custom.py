"""Search spaces beside the presets: read from a YAML file, or fitted to the size of images and a compute budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import read_yaml
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_CIFAR, ALPHANET_TINY, SPACES
from alphanet_zoo.space.space import SearchSpace

_SHARES = (2 / 3, 5 / 6, 1.0)
"""Resolutions of a fitted space, as shares of the largest."""
_LAST_MAP = (4, 9)
"""Least and greatest side of the last feature map of a fitted space, at its largest resolution."""


def find_space(value: str | Mapping[str, Any]) -> SearchSpace:
    """The search space of a config: a preset's name, the path of a YAML file, or the choices as a mapping.

    Raises:
        UsageError: The preset or file does not exist, the file is not YAML, the choices are not valid, or they have the
            name of a preset and differ from it.
    """
    if not isinstance(value, str):
        return _space_of(value, "space")
    if value in SPACES:
        return SPACES[value]
    if not value.endswith((".yaml", ".yml")):
        raise UsageError(
            f"unknown search space {value!r}; pass one of {', '.join(SPACES)}, or the path of a YAML file (.yaml)"
        )
    if not Path(value).is_file():
        raise UsageError(f"no such file: {value}; pass a YAML file with the choices of a search space")
    return _space_of(read_yaml(Path(value)), value)


def _space_of(tree: object, where: str) -> SearchSpace:
    """The search space that a mapping describes."""
    if not isinstance(tree, Mapping):
        raise UsageError(f"{where} does not contain a mapping; see 'Search spaces' in docs/train.md for the format")
    try:
        space = SearchSpace.from_dict(tree)
        count_macs(space.largest, space)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{where} is not a search space: {error}") from None
    if not isinstance(space.name, str) or not space.name:
        raise UsageError(f"{where}: name is {space.name!r}; pass a text")
    if space.name in SPACES and space != SPACES[space.name]:
        raise UsageError(f"{where}: {space.name} is the name of another search space; choose another name")
    return space


def fitted_space(image_side: int, budget: float, num_classes: int) -> SearchSpace:
    """The search space for images of one size whose largest subnet fits a compute budget.

    The candidates have the stages of a preset (tiny, CIFAR with a stem of stride 1 or 2, ImageNet) and a largest
    resolution that is a multiple of the network's total stride, at most the images' size, and gives a last feature map
    of 4 x 4 to 9 x 9. Of those within the budget, the last preset in this order is taken, at its highest resolution.

    Args:
        image_side: Short side of a typical image, in pixels.
        budget: Maximum cost of the largest subnet, in MACs per image.
        num_classes: Number of classes.

    Raises:
        UsageError: The largest subnet of every candidate exceeds the budget; the message names the least cost.
    """
    costs = {space: count_macs(space.largest, space, num_classes) for space in _candidates(image_side)}
    within = [space for space, cost in costs.items() if cost <= budget]
    if not within:
        raise UsageError(
            f"budget is {budget / 1e6:g} M MACs, and the largest subnet of the smallest space for images of "
            f"{image_side} pixels takes {min(costs.values()) / 1e6:.1f} M; pass at least budget="
            f"{math.ceil(min(costs.values()) / 1e5) / 10:g}M"
        )
    return within[-1]


def _candidates(image_side: int) -> Iterator[SearchSpace]:
    """The spaces that `fitted_space` chooses from, in its order of preference; the last is the best."""
    for base, stem_stride in ((ALPHANET_TINY, 1), (ALPHANET_CIFAR, 1), (ALPHANET_CIFAR, 2), (ALPHANET, 2)):
        stride = stem_stride * math.prod(stage.stride for stage in base.stages)
        least, most = (side * stride for side in _LAST_MAP)
        if base is not ALPHANET_TINY and least > image_side:
            continue
        for side in range(least, max(least, min(image_side, most)) + 1, stride):
            step = max(2, stride // 4)
            resolution = tuple(sorted({round(share * side / step) * step for share in _SHARES}))
            name = f"{base.name}_stem{stem_stride}_{side}px"
            yield replace(base, name=name, resolution=resolution, stem_stride=stem_stride)
