"""Predictor-guided search: a predictor of the score proposes the next archs. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from alphanet_zoo.errors import TargetError
from alphanet_zoo.search.chain import FloatArray, Rows, best_within, macs_tables
from alphanet_zoo.search.costs import Problem
from alphanet_zoo.search.limits import MACS
from alphanet_zoo.search.predictor import Predictor
from alphanet_zoo.search.strategies import Scored, front_of
from alphanet_zoo.space.family import A
from alphanet_zoo.space.space import SearchSpace


@dataclass(frozen=True)
class Guided:
    """Fits a `Predictor` to all scores in each round, and proposes the archs that it ranks highest.

    Candidates are found by an evolutionary search on the predictor alone and, if the front's cost is MACs and adds up
    along the chain, as the exact optima for several budgets. Of each range of cost the candidate with the highest
    prediction plus ``optimism`` standard deviations is chosen, the most promising ranges first.

    Args:
        initial: Archs of the first round, which are random.
        batch: Archs per round.
        optimism: Weight of the uncertainty.
        population: Parents of the search on the predictor.
        rounds: Rounds of the search on the predictor.
    """

    initial: int = 64
    batch: int = 16
    optimism: float = 0.5
    population: int = 512
    rounds: int = 20

    @classmethod
    def sized(cls, evaluations: int) -> Guided:
        """Between 8 and 64 random archs, then batches of a thirtieth of the evaluations."""
        return cls(min(64, max(8, evaluations // 8)), min(64, max(4, evaluations // 30)))

    def propose(
        self, problem: Problem[A], scored: Sequence[Scored[A]], count: int, rng: np.random.Generator
    ) -> list[A]:
        """See `alphanet_zoo.search.strategies.Strategy`."""
        if not scored:
            return problem.draw(min(self.initial, count), rng)
        known = problem.rows([each.arch for each in scored])
        predictor = Predictor(problem.space).fit(known, [each.score for each in scored])

        def promise(rows: Rows) -> FloatArray:
            mean, error = predictor.predict_with_error(rows)
            return mean + self.optimism * error

        size = min(self.batch, count)
        rows = evolve_rows(problem, promise, known, rng, population=self.population, rounds=self.rounds)
        rows = np.concatenate([rows, self._optima(problem, predictor, scored, size)])
        seen = {each.arch for each in scored}
        new = [arch for arch in dict.fromkeys(problem.archs(rows)) if arch not in seen]
        return self._spread(problem, problem.within(new), promise, scored, size) if new else []

    def _spread(
        self,
        problem: Problem[A],
        archs: list[A],
        promise: Callable[[Rows], FloatArray],
        scored: Sequence[Scored[A]],
        size: int,
    ) -> list[A]:
        """The most promising arch of each range of cost, in descending order of their gain over the front."""
        if not archs:
            return []
        rows = problem.rows(archs)
        costs, values = problem.costs[problem.axis](rows), promise(rows)
        front = front_of(scored)
        reached = np.array([-math.inf, *(each.score for each in front)])
        at = np.searchsorted([each.cost for each in front], costs, side="right")
        gain = values - np.where(at > 0, reached[at], min(each.score for each in scored))
        low, high = costs.min(), costs.max()
        places = np.minimum(((costs - low) / ((high - low) / (2 * size) or 1.0)).astype(int), 2 * size - 1)
        chosen: list[int] = []
        for once in (True, False):  # One of each range first, then the best of the others.
            used: set[int] = set()
            for i in np.argsort(-gain, kind="stable").tolist():
                if len(chosen) < size and i not in chosen and not (once and places[i] in used):
                    chosen.append(i)
                    used.add(int(places[i]))
        return [archs[i] for i in chosen]

    def _optima(self, problem: Problem[A], predictor: Predictor, scored: Sequence[Scored[A]], count: int) -> Rows:
        """The exact optima of the prediction for several budgets; none if the cost is not MACs of an AlphaNet."""
        none = np.empty((0, len(problem.space.entries)), dtype=int)
        if problem.axis != MACS or not isinstance(problem.space, SearchSpace):
            return none
        found = []
        costs = [each.cost for each in scored]
        for budget in np.linspace(min(costs), max(costs), count):
            try:
                found.append(exact_optimum(problem.space, predictor, float(budget), problem.num_classes)[0])
            except TargetError:
                continue
        return np.array(found) if found else none


def exact_optimum(
    space: SearchSpace, predictor: Predictor, budget: float, num_classes: int = 1000
) -> tuple[tuple[int, ...], float]:
    """The arch with the highest prediction within a budget of MACs: its ``scalars``, and its predicted score.

    Raises:
        TargetError: No arch is within the budget.
    """
    return best_within(predictor.chain, predictor.tables(), macs_tables(space, num_classes), budget)


def evolve_rows(
    problem: Problem[A],
    score: Callable[[Rows], FloatArray],
    start: Rows,
    rng: np.random.Generator,
    *,
    population: int = 512,
    rounds: int = 20,
    mutation_prob: float = 0.1,
    bins: int = 64,
) -> Rows:
    """An evolutionary search with a score that is computed for many archs at once.

    Args:
        problem: Space, costs and limits.
        score: Scores ``(n,)`` of rows.
        start: The ``scalars`` of some archs, ``(n, scalars)``; random ones are added.
        rng: Source of randomness.
        population: Children per round.
        rounds: Number of rounds.
        mutation_prob: Probability of redrawing each entry.
        bins: Equal ranges of the cost; the best two archs of each are parents.

    Returns:
        The last parents.
    """
    choices = [np.asarray(values) for _, values in problem.space.entries]
    rows = np.concatenate([start, problem.space.sample_array(population, rng)])
    rows = _best_of_bins(problem, score, rows, bins)
    for _ in range(rounds if len(rows) else 0):
        one, other = (rows[rng.integers(len(rows), size=population)] for _ in range(2))
        mixed = np.where(rng.random(one.shape) < 0.5, one, other)
        children = np.where((np.arange(population) % 2 == 0)[:, None], mixed, one)
        redrawn = np.stack([values[rng.integers(len(values), size=population)] for values in choices], axis=1)
        children = np.where(rng.random(children.shape) < mutation_prob, redrawn, children)
        rows = _best_of_bins(problem, score, np.concatenate([rows, children]), bins)
    return rows


def _best_of_bins(problem: Problem[A], score: Callable[[Rows], FloatArray], rows: Rows, bins: int) -> Rows:
    """The best two different archs of each range of cost that are within the limits."""
    rows = np.unique(rows, axis=0)
    rows = rows[problem.feasible(rows)]
    if not len(rows):
        return rows
    costs, values = problem.costs[problem.axis](rows), score(rows)
    low, high = costs.min(), costs.max()
    places = np.minimum(((costs - low) / ((high - low) / bins or 1.0)).astype(int), bins - 1)
    order = np.lexsort((-values, places))
    starts = np.searchsorted(places[order], places[order])
    best: Rows = rows[order[np.arange(len(order)) - starts < 2]]
    return best
