"""Searches a supernet for the Pareto front of a cost and a score; keeps every score, resumes, and shares the work."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from alphanet_zoo.evaluate.statistics import wilson_interval
from alphanet_zoo.search.costs import Problem, make_problem
from alphanet_zoo.search.guided import Guided
from alphanet_zoo.search.limits import LATENCY, MACS, PARAMS, Limit
from alphanet_zoo.search.nsga2 import Nsga2
from alphanet_zoo.search.scores import ScoreFile, processes
from alphanet_zoo.search.strategies import Evolution, Random, Scored, Strategy, front_of, run_strategy
from alphanet_zoo.space.family import Arch

if TYPE_CHECKING:
    from alphanet_zoo.evaluate.evaluator import SubnetEvaluator
    from alphanet_zoo.search.scorer import Scorer

STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "evolution": Evolution.sized,
    "nsga2": Nsga2.sized,
    "predictor": Guided.sized,
    "random": lambda evaluations: Random(),
}
"""The strategies by name: a function of the number of evaluations."""
POLL_SECONDS = 0.1
"""Time between two looks for the scores of other processes."""


def search(evaluator: SubnetEvaluator, low: float, high: float, evaluations: int, seed: int) -> list[dict[str, Any]]:
    """Searches with the evolutionary strategy, in memory.

    Args:
        evaluator: Measures the accuracy of the subnets of its supernet.
        low: Minimum cost in MACs.
        high: Maximum cost in MACs.
        evaluations: Number of subnets to evaluate.
        seed: Seed of the search.

    Returns:
        An entry for each evaluated subnet, in ascending order of MACs: arch (in the published form), macs, params,
        score and accuracy (0 to 1), interval, correct, images, and front: whether the subnet is on the Pareto front.

    Raises:
        ValueError: No subnet costs ``low`` to ``high``.
    """
    net = evaluator.supernet
    problem = make_problem(net.space, {MACS: Limit(low, high)}, num_classes=net.num_classes)
    with tqdm(total=evaluations, desc="searching", unit="subnet", file=sys.stderr, disable=None) as bar:

        def score(archs: Sequence[Arch], _: Sequence[Scored[Any]]) -> Iterator[tuple[float, bool]]:
            for arch in archs:
                yield evaluator(arch), True
                bar.update()

        found = run_strategy(problem, Evolution.sized(evaluations), score, evaluations=evaluations, seed=seed)
    figures = {c.arch: {"correct": h.correct, "images": h.images} for c in found for h in (evaluator.results[c.arch],)}
    return entries_of(problem, found, figures)


class SearchRun:
    """A search whose scores are in a file. Several processes with the same arguments share the work.

    Args:
        problem: Space, costs and limits.
        scorer: Scores a subnet.
        scores: The file of scores.
        strategy: Proposes subnets.
        time_limit: Seconds after which no subnet is begun; None for no limit.

    Attributes:
        evaluated: Number of subnets that have a score, also those that were stopped early.
        reused: Number of them that only earlier searches with these scores proposed.
        measured: Number of subnets that this process scored.
        out_of_time: Whether the time limit ended the search.
    """

    def __init__(
        self,
        problem: Problem[Any],
        scorer: Scorer,
        scores: ScoreFile,
        strategy: Strategy,
        *,
        time_limit: float | None = None,
    ) -> None:
        """Scores nothing."""
        self.problem, self.scores, self.evaluated, self.measured, self.reused = problem, scores, 0, 0, 0
        self.out_of_time, self._deadline = False, None if time_limit is None else time.monotonic() + time_limit
        self._scorer, self._strategy = scorer, strategy

    def __call__(self, evaluations: int, seed: int) -> list[dict[str, Any]]:
        """Runs the search; returns entries as `search` does, of fully scored subnets.

        Subnets within the limits that an earlier search with the same scores evaluated are among them.

        Raises:
            TargetError: No subnet is within the limits.
        """
        with tqdm(total=evaluations, desc="searching", unit="subnet", file=sys.stderr, disable=None) as bar:

            def score(archs: Sequence[Arch], history: Sequence[Scored[Any]]) -> Iterator[tuple[float, bool]]:
                self._score_round(archs, history, bar)
                for arch in archs:
                    if arch not in self.scores:
                        return
                    yield self.scores[arch]["score"], self.scores[arch]["complete"]

            found = run_strategy(self.problem, self._strategy, score, evaluations=evaluations, seed=seed)
        found += (earlier := self._earlier({each.arch for each in found}))
        self.evaluated, self.reused = len(found), len(earlier)
        return entries_of(self.problem, found, {each.arch: self.scores[each.arch] for each in found})

    def _earlier(self, known: Collection[Arch]) -> list[Scored[Any]]:
        """The other scored archs of the file within the limits."""
        archs = [self.problem.space.read_arch(entry["arch"]) for entry in self.scores.entries.values()]
        others = self.problem.within([arch for arch in archs if arch in self.problem.space and arch not in known])
        return [
            Scored(arch, self.problem.cost(arch), self.scores[arch]["score"], complete=self.scores[arch]["complete"])
            for arch in others
        ]

    def _score_round(self, archs: Sequence[Arch], history: Sequence[Scored[Any]], bar: Any) -> None:
        """Scores the archs of a round that no process has scored, and waits for those that others are scoring."""
        self.scores.refresh()
        missing = [arch for arch in archs if arch not in self.scores]
        bar.update(len(archs) - len(missing))
        if processes()[1] > 1:  # Processes begin at different places, so that they rarely claim the same arch.
            random.Random(processes()[0]).shuffle(missing)
        while missing:
            before = len(missing)
            for arch in list(missing):
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    self.out_of_time = True
                    return
                self._score_one(arch, history)
                if arch in self.scores:
                    missing.remove(arch)
                    bar.update()
            if len(missing) == before:
                time.sleep(POLL_SECONDS)
                self.scores.refresh()

    def _score_one(self, arch: Arch, history: Sequence[Scored[Any]]) -> None:
        """Scores one arch, unless another process does."""
        with self.scores.claimed(arch) as own:
            self.scores.refresh()
            if own and arch not in self.scores:
                self.scores.add(arch, self._scorer(arch, self._reference(arch, history)))
                self.measured += 1

    def _reference(self, arch: Arch, history: Sequence[Scored[Any]]) -> Any:
        """The best arch of the earlier rounds that is at most as expensive; None if there is none."""
        from alphanet_zoo.search.scorer import reference_of

        cost = self.problem.cost(arch)
        cheaper = [each for each in history if each.complete and each.cost <= cost]
        if not cheaper:
            return None
        best = max(cheaper, key=lambda each: (each.score, -each.cost))
        return reference_of(self.scores[best.arch])


def entries_of(
    problem: Problem[Any], found: Sequence[Scored[Any]], figures: Mapping[Arch, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The fully scored archs as plain values, in ascending order of the front's cost.

    Args:
        problem: Space and costs.
        found: The scored archs.
        figures: ``correct`` and ``images`` of each arch, if the score is an accuracy.
    """
    front = {each.arch for each in front_of(found)}
    entries = []
    for each in (each for each in found if each.complete):
        counted = {name: figures[each.arch][name] for name in ("correct", "images") if name in figures[each.arch]}
        entry: dict[str, Any] = {"arch": each.arch.to_dict(), MACS: int(problem.cost(each.arch, MACS)),
                                 PARAMS: int(problem.cost(each.arch, PARAMS))}  # fmt: skip
        if LATENCY in problem.costs:
            entry[LATENCY] = round(problem.cost(each.arch, LATENCY), 4)
        entry["score"] = each.score
        if counted:
            entry |= {"accuracy": each.score, "interval": list(wilson_interval(**_of_trials(counted))), **counted}
        entries.append((each.cost, {**entry, "front": each.arch in front}))
    return [entry for _, entry in sorted(entries, key=lambda pair: pair[0])]


def _of_trials(counted: Mapping[str, int]) -> dict[str, int]:
    """The arguments of `wilson_interval`."""
    return {"successes": counted["correct"], "trials": counted["images"]}
