"""Evolutionary search for the Pareto front of a cost and a score, both passed as functions of an arch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic

import numpy as np

from alphanet_zoo.errors import TargetError
from alphanet_zoo.search.pareto import pareto_front
from alphanet_zoo.space.family import A, Space

ATTEMPTS = 200
"""Attempts to breed one new arch within the window before it is given up."""


@dataclass(frozen=True)
class Candidate(Generic[A]):
    """A scored arch."""

    arch: A
    cost: float
    score: float


def evolve(
    space: Space[A],
    cost: Callable[[A], float],
    score: Callable[[A], float],
    *,
    initial: Sequence[A],
    evaluations: int,
    rng: np.random.Generator,
    low: float = 0.0,
    high: float = math.inf,
    generation: int = 16,
    bins: int = 8,
    mutation_prob: float = 0.1,
) -> list[Candidate[A]]:
    """Scores the initial archs, then breeds archs around the front, one generation at a time.

    Parents are the archs of the front and the best arch of each of ``bins`` equal ranges of the cost seen so far, which
    keeps every range populated. Half of the children are mutations of one parent, half are crossovers of two. No arch
    is scored twice.

    Args:
        space: The search space.
        cost: Cost of an arch; should be cheap. Archs outside ``low`` to ``high`` are not scored.
        score: Score of an arch, larger is better; may be expensive.
        initial: Initial archs, for example from `first_population`.
        evaluations: Maximum number of archs to score.
        rng: Source of randomness.
        low: Least cost.
        high: Greatest cost.
        generation: Number of children per generation.
        bins: Number of ranges of cost that each contribute a parent.
        mutation_prob: Probability of redrawing each entry of an arch.

    Returns:
        All scored archs in the order of scoring. Fewer than ``evaluations`` if the window contains fewer, or if no new
        arch is found near the parents.

    Raises:
        ValueError: No initial arch is within the window, or an argument is out of range.

    Source: the evolutionary searches of Cai et al., 2020, arXiv:1908.09791, and Wang et al., 2021, arXiv:2011.09011.
    """
    if evaluations < 1 or generation < 1 or bins < 1:
        raise ValueError(f"evaluations {evaluations}, generation {generation} and bins {bins} must be at least 1")
    scored: dict[A, Candidate[A]] = {}

    def add(archs: Sequence[A]) -> None:
        for arch in archs:
            if len(scored) < evaluations and arch not in scored and low <= cost(arch) <= high:
                scored[arch] = Candidate(arch, cost(arch), score(arch))

    add(initial)
    if not scored:
        raise ValueError(f"no initial arch costs {low} to {high}; pass at least one that does")
    while len(scored) < evaluations:
        parents = _parents(list(scored.values()), bins)
        children: dict[A, None] = {}
        for _ in range(generation):
            for attempt in range(ATTEMPTS):
                child = _breed(space, parents, min(1.0, mutation_prob * (1 + attempt / 10)), rng)
                if child not in scored and child not in children and low <= cost(child) <= high:
                    children[child] = None
                    break
        if not children:
            break
        add(list(children))
    return list(scored.values())


def _parents(candidates: Sequence[Candidate[A]], bins: int) -> list[A]:
    """The archs of the front and the best arch of each range of cost, without duplicates."""
    front = [candidates[i] for i in pareto_front([(c.cost, c.score) for c in candidates])]
    costs = [c.cost for c in candidates]
    width = (max(costs) - min(costs)) / bins or 1.0
    best: dict[int, Candidate[A]] = {}
    for candidate in candidates:
        place = min(int((candidate.cost - min(costs)) / width), bins - 1)
        if place not in best or candidate.score > best[place].score:
            best[place] = candidate
    return list(dict.fromkeys(c.arch for c in (*front, *best.values())))


def _breed(space: Space[A], parents: Sequence[A], prob: float, rng: np.random.Generator) -> A:
    """A mutation of one parent or, with equal probability, a crossover of two."""
    one, other = (parents[i] for i in rng.integers(len(parents), size=2))
    if rng.random() < 0.5:
        return space.mutate(one, prob, rng)
    child = space.crossover(one, other, rng)
    return child if one != other else space.mutate(child, prob, rng)


def first_population(
    space: Space[A], low: float, high: float, n: int, rng: np.random.Generator, *, num_classes: int = 1000
) -> list[A]:
    """About ``n`` archs spread over a window of MACs, with a uniform draw from each of ``n - 2`` equal slices.

    Args:
        space: The search space.
        low: Least MACs.
        high: Greatest MACs.
        n: Number of archs, including the smallest and the largest arch of the space if they are in the window.
        rng: Source of randomness.
        num_classes: Classes of the classifier, which is part of the cost.

    Raises:
        TargetError: (a ValueError) The window is empty; the message names the nearest possible costs.
    """
    least, most = (space.count_macs(arch, num_classes) for arch in (space.smallest, space.largest))
    edges = np.linspace(max(low, least), min(high, most), max(n - 2, 1) + 1)
    archs = [arch for arch, macs in ((space.smallest, least), (space.largest, most)) if low <= macs <= high]
    for start, end in zip(edges, edges[1:], strict=False):
        with suppress(TargetError):
            archs += space.sample_within(start, end, 1, rng, num_classes=num_classes) if start <= end else []
    if not archs:
        archs = space.sample_within(low, high, 1, rng, num_classes=num_classes)
    return list(dict.fromkeys(archs))
