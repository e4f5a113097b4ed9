"""The costs of a space and whether the limits of a search can be met, before anything is scored. Loads no torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alphanet_zoo.errors import TargetError
from alphanet_zoo.search.costs import Problem
from alphanet_zoo.search.limits import UNITS, cost_text

SAMPLE = 10_000
"""Random archs that the median of a cost is computed from."""
SPREAD = 100
"""Archs that are drawn to check the limits."""


def profile_text(problem: Problem[Any]) -> tuple[str, bool]:
    """A table of the costs with the limits, and whether an arch within all limits was found.

    Args:
        problem: Space, costs and limits.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    rows = problem.space.sample_array(SAMPLE, rng)
    ends = problem.rows([problem.space.smallest, problem.space.largest])
    lines = [
        f"space {problem.space.name}, {problem.num_classes} classes",
        f"{'cost':<16}{'minimum':>14}{'median':>14}{'maximum':>14}   limit",
    ]
    for name, cost in problem.costs.items():
        low, high = cost(ends)
        figures = "".join(f"{_number(name, value):>14}" for value in (low, float(np.median(cost(rows))), high))
        lines.append(f"{UNITS[name]:<16}{figures}   {_limit(problem, name)}")
    try:
        found = problem.draw(SPREAD, rng)
    except TargetError as error:
        return "\n".join([*lines, f"the limits cannot be met: {error}"]), False
    share = problem.feasible(rows).mean()
    verdict = f"the limits can be met: {100 * share:.1f} % of {SAMPLE:,} random archs are within them"
    if not share:
        verdict = f"the limits can be met, but by none of {SAMPLE:,} random archs; found by MACs: {len(found)}"
    return "\n".join([*lines, verdict]), True


def _number(name: str, value: float) -> str:
    """A cost in a table."""
    return cost_text(name, value).removesuffix(f" {UNITS[name]}").removesuffix(UNITS[name])


def _limit(problem: Problem[Any], name: str) -> str:
    """The limit of a cost."""
    if name not in problem.limits:
        return "none"
    low, high = problem.limits[name]
    if math.isinf(high):
        return f"at least {_number(name, low)}"
    return f"{_number(name, low)} to {_number(name, high)}" if low else f"at most {_number(name, high)}"
