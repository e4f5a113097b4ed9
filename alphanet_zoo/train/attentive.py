"""Attentive sampling (AttentiveNAS): of a few archs of similar cost, the best or the worst on the batch of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from alphanet_zoo.data.draws import generator
from alphanet_zoo.space.family import Arch, Space
from alphanet_zoo.train.config import SandwichConfig


def candidate_archs(space: Space[Any], config: SandwichConfig, seed: int, step: int) -> list[list[Arch]]:
    """The candidates for each random subnet of one step.

    Draws a window of costs as often as uniform archs fall into it, then candidates uniformly within it. Costs are MACs
    with 1000 classes.

    Source: Wang et al., 2021, arXiv:2011.09011, section 4.
    """
    rng, groups = generator(seed, "candidates", step), []
    for _ in range(config.random_subnets):
        low = math.floor(space.count_macs(space.sample(rng)) / config.window) * config.window
        groups.append(list(space.sample_within(low, math.nextafter(low + config.window, low), config.candidates, rng)))
    return groups


def attentive_archs(
    space: Space[Any],
    config: SandwichConfig,
    seed: int,
    step: int,
    losses_of: Callable[[Sequence[Arch]], Sequence[float]],
) -> dict[str, Arch]:
    """The archs of one step by name; each random arch is chosen from its candidates.

    Args:
        space: The search space.
        config: Its `sampling` is 'best_up' (least loss) or 'worst_up' (greatest loss).
        seed: The seed of the run.
        step: The step, from 0.
        losses_of: Returns the losses of archs on the batch of the step, the same on every process.
    """
    groups = candidate_archs(space, config, seed, step)
    losses = iter(losses_of([arch for group in groups for arch in group]))
    pick = min if config.sampling == "best_up" else max
    chosen = {}
    for i, group in enumerate(groups):
        scored = [(next(losses), arch) for arch in group]
        chosen[f"random-{i + 1}"] = pick(scored, key=lambda entry: entry[0])[1]
    return {"largest": space.largest, **chosen, "smallest": space.smallest}
