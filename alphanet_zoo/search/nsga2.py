"""NSGA-II: a multi-objective genetic algorithm.

It is written here, in a few lines, instead of using pymoo: a search must be a function of the scores so far, so that
it resumes from a file and runs in several processes, and pymoo's algorithm objects keep state and random generators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alphanet_zoo.search.costs import Problem
from alphanet_zoo.search.pareto import pareto_front
from alphanet_zoo.search.strategies import ATTEMPTS, Scored
from alphanet_zoo.space.family import A


@dataclass(frozen=True)
class Nsga2:
    """Non-dominated sorting with crowding distance, binary tournaments, uniform crossover and mutation.

    Args:
        population: Archs of a generation.
        mutation_prob: Probability of redrawing each entry of a child.

    Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.
    """

    population: int = 64
    mutation_prob: float = 0.1

    @classmethod
    def sized(cls, evaluations: int) -> Nsga2:
        """A population of a tenth of the evaluations, between 8 and 128."""
        return cls(min(128, max(8, evaluations // 10)))

    def propose(
        self, problem: Problem[A], scored: Sequence[Scored[A]], count: int, rng: np.random.Generator
    ) -> list[A]:
        """See `alphanet_zoo.search.strategies.Strategy`."""
        if not scored:
            return problem.draw(min(self.population, count), rng)
        parents = self._population(scored)
        order = _order([(each.cost, each.score) for each in parents])
        rank = {i: place for place, i in enumerate(order)}
        seen = {each.arch for each in scored}
        children: dict[A, None] = {}
        for attempt in range(ATTEMPTS * self.population):
            if len(children) >= min(self.population, count):
                break
            one, other = (parents[min(rng.integers(len(parents), size=2), key=lambda i: rank[int(i)])].arch
                          for _ in range(2))  # fmt: skip
            child = problem.space.crossover(one, other, rng)
            prob = min(1.0, self.mutation_prob * (1 + attempt / (10 * self.population)))
            child = problem.space.mutate(child, prob, rng)
            if child not in seen and child not in children and problem.within([child]):
                children[child] = None
        return list(children)

    def _population(self, scored: Sequence[Scored[A]]) -> list[Scored[A]]:
        """The survivors of all rounds, replayed from the first one."""
        alive: list[Scored[A]] = []
        for number in range(scored[-1].round + 1):
            alive += [each for each in scored if each.round == number]
            order = _order([(each.cost, each.score) for each in alive])
            alive = [alive[i] for i in order[: self.population]]
        return alive


def _order(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices from the best to the worst: by front, within a front by descending crowding distance."""
    left, order = list(range(len(points))), list[int]()
    while left:
        front = [left[i] for i in pareto_front([points[i] for i in left])]
        same = {points[i] for i in front}
        front += [i for i in left if points[i] in same and i not in front]
        distances = _crowding([points[i] for i in front])
        order += [i for _, i in sorted(zip((-d for d in distances), front, strict=True))]
        left = [i for i in left if i not in set(front)]
    return order


def _crowding(points: Sequence[tuple[float, float]]) -> list[float]:
    """Crowding distance of each point of one front: the normalised size of the box between its neighbours."""
    distances = [0.0] * len(points)
    for axis in (0, 1):
        order = sorted(range(len(points)), key=lambda i: points[i][axis])
        span = points[order[-1]][axis] - points[order[0]][axis] or 1.0
        distances[order[0]] = distances[order[-1]] = math.inf
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            distances[here] += (points[after][axis] - points[before][axis]) / span
    return distances
