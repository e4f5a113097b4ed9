"""Strategies of a search, behind one interface, and the loop that runs them. Loads no torch.

A strategy is a function of the archs scored so far and of a source of randomness, and keeps no state. So a search with
the same seed proposes the same archs, also if it was interrupted and its scores were read from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np

from alphanet_zoo.search.costs import Problem
from alphanet_zoo.search.limits import MACS
from alphanet_zoo.search.pareto import pareto_front
from alphanet_zoo.space.family import A

ATTEMPTS = 200
"""Attempts to breed one new arch within the limits before it is given up."""
PUBLISHED_EVALUATIONS = 512 + 20 * 256


@dataclass(frozen=True)
class Scored(Generic[A]):
    """A scored arch.

    Args:
        arch: The arch.
        cost: Its cost on the axis of the front.
        score: Its score; larger is better.
        round: The round in which it was proposed.
        complete: Whether it was scored on all images; otherwise the score is an estimate, and it is never on the front.
    """

    arch: A
    cost: float
    score: float
    round: int = 0
    complete: bool = True


class Strategy(Protocol):
    """Proposes the next archs to score."""

    def propose(
        self, problem: Problem[Any], scored: Sequence[Scored[Any]], count: int, rng: np.random.Generator
    ) -> list[Any]:
        """New archs within the limits, for one round.

        Args:
            problem: Space, costs and limits.
            scored: All archs scored so far, in order of their rounds; empty in the first round.
            count: Maximum number of archs.
            rng: Source of randomness.

        Returns:
            At most ``count`` archs; none ends the search.
        """


ScoreMany = Callable[[Sequence[A], Sequence[Scored[A]]], Iterable[tuple[float, bool]]]
"""Scores archs, given those scored in earlier rounds: score and whether it is complete, in order. It may end early,
which ends the search."""


def run_strategy(
    problem: Problem[A], strategy: Strategy, score: ScoreMany[A], *, evaluations: int, seed: int
) -> list[Scored[A]]:
    """Runs rounds of a strategy until ``evaluations`` archs are scored or it proposes none.

    No arch is scored twice. The draws of a round depend on the seed and the number of the round only.

    Raises:
        ValueError: ``evaluations`` is less than 1.
        TargetError: No arch is within the limits.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations is {evaluations}; it must be at least 1")
    history: list[Scored[A]] = []
    seen: set[A] = set()
    number = 0
    while len(history) < evaluations:
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        proposed = strategy.propose(problem, history, evaluations - len(history), rng)
        archs = [arch for arch in dict.fromkeys(problem.within(proposed)) if arch not in seen]
        archs = archs[: evaluations - len(history)]
        if not archs:
            break
        seen.update(archs)
        new = [
            Scored(arch, problem.cost(arch), value, number, complete)
            for arch, (value, complete) in zip(archs, score(archs, tuple(history)), strict=False)
        ]
        history += new
        if len(new) < len(archs):
            break
        number += 1
    return history


def front_of(scored: Sequence[Scored[A]]) -> list[Scored[A]]:
    """The archs of the front, in ascending order of cost."""
    complete = [each for each in scored if each.complete]
    return [complete[i] for i in pareto_front([(each.cost, each.score) for each in complete])]


@dataclass(frozen=True)
class Random:
    """Archs spread evenly over the range of MACs: the baseline.

    Args:
        batch: Archs per round.
    """

    batch: int = 64

    def propose(
        self, problem: Problem[A], scored: Sequence[Scored[A]], count: int, rng: np.random.Generator
    ) -> list[A]:
        """See `Strategy`."""
        seen = {each.arch for each in scored}
        for _ in range(3):
            drawn = problem.draw(min(count, self.batch), rng)
            new = [arch for arch in drawn if arch not in seen]
            if new:
                return [new[i] for i in rng.permutation(len(new))]
        return []


@dataclass(frozen=True)
class Evolution:
    """The published evolutionary search.

    Parents are the archs of the front and the best arch of each bin of cost.

    Args:
        initial: Archs of the first round, which are random.
        mutations: Mutations of one parent per round.
        crossovers: Crossovers of two parents per round.
        mutation_prob: Probability of redrawing each entry of an arch.
        bin_width: Width of a bin in MACs if the front's cost is MACs. If the range of costs has fewer than eight
            bins, and for other costs, a bin is an eighth of the range.

    Source: Wang et al., 2021, arXiv:2102.07954, section 4, and arXiv:2011.09011.
    """

    initial: int = 512
    mutations: int = 128
    crossovers: int = 128
    mutation_prob: float = 0.2
    bin_width: float = 10e6

    @classmethod
    def sized(cls, evaluations: int) -> Evolution:
        """The published numbers for 5,632 evaluations or more; with fewer, a third of them is random."""
        if evaluations >= PUBLISHED_EVALUATIONS:
            return cls()
        children = max(8, round(128 * evaluations / PUBLISHED_EVALUATIONS))
        return cls(max(2, evaluations // 3), children, children)

    def propose(
        self, problem: Problem[A], scored: Sequence[Scored[A]], count: int, rng: np.random.Generator
    ) -> list[A]:
        """See `Strategy`."""
        if not scored:
            return problem.draw(min(self.initial, count), rng)
        parents = self._parents(problem, scored)
        return breed(
            problem, parents, {each.arch for each in scored}, rng,
            mutations=self.mutations, crossovers=self.crossovers, prob=self.mutation_prob, count=count,
        )  # fmt: skip

    def _parents(self, problem: Problem[A], scored: Sequence[Scored[A]]) -> list[A]:
        """The archs of the front and the best arch of each bin, without duplicates."""
        costs = [each.cost for each in scored]
        span = max(costs) - min(costs)
        width = self.bin_width if problem.axis == MACS and span >= 8 * self.bin_width else span / 8 or 1.0
        best: dict[int, Scored[A]] = {}
        for each in scored:
            place = int((each.cost - min(costs)) / width)
            if place not in best or each.score > best[place].score:
                best[place] = each
        return list(dict.fromkeys(each.arch for each in (*front_of(scored), *best.values())))


def breed(
    problem: Problem[A],
    parents: Sequence[A],
    seen: set[A],
    rng: np.random.Generator,
    *,
    mutations: int,
    crossovers: int,
    prob: float,
    count: int,
) -> list[A]:
    """New archs within the limits: mutations of one parent and crossovers of two, at most ``count``.

    If no new arch is found, the probability of a mutation is raised step by step.
    """
    children: dict[A, None] = {}
    for place in range(mutations + crossovers):
        for attempt in range(0, ATTEMPTS, 10):
            batch = [_child(problem, parents, place < mutations, min(1.0, prob * (1 + attempt / 10)), rng)
                     for _ in range(1 if attempt == 0 else 10)]  # fmt: skip
            new = [arch for arch in problem.within(batch) if arch not in seen and arch not in children]
            if new:
                children[new[0]] = None
                break
    archs = list(children)
    return archs if len(archs) <= count else [archs[i] for i in sorted(rng.permutation(len(archs))[:count])]


def _child(problem: Problem[A], parents: Sequence[A], mutated: bool, prob: float, rng: np.random.Generator) -> A:
    """A mutation, or a crossover of two different parents."""
    one, other = (parents[i] for i in rng.integers(len(parents), size=2))
    if mutated or one == other:
        return problem.space.mutate(one, prob, rng)
    return problem.space.crossover(one, other, rng)
