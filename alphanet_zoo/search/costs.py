"""Costs of an arch, and the limits that a search keeps to. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import numpy as np
import numpy.typing as npt

from alphanet_zoo.errors import TargetError, UsageError
from alphanet_zoo.search.chain import Chain, FloatArray, Rows, evaluate, params_tables
from alphanet_zoo.search.limits import LATENCY, MACS, PARAMS, UNITS, Limit, cost_text
from alphanet_zoo.space.family import A, Space
from alphanet_zoo.space.space import SearchSpace

if TYPE_CHECKING:
    from alphanet_zoo.search.device import LatencyModel

Cost = Callable[[Rows], FloatArray]
"""Costs ``(n,)`` of many archs, ``(n, scalars)``: the ``scalars`` of one arch per row."""

DRAWS = 2048
"""Archs that are drawn at a time."""
MOST_DRAWS = 2**17
"""Archs that are drawn before a search for feasible ones ends."""
SLICES = 16
"""Equal ranges of MACs that initial archs are spread over."""


@dataclass(frozen=True, eq=False)
class Problem(Generic[A]):
    """What is searched: a space, its costs, their limits, and the cost that the front trades against the score.

    Args:
        space: The search space.
        costs: The costs by name.
        limits: Least and greatest value of some of them.
        axis: The cost of the front.
        num_classes: Classes of the classifier.
    """

    space: Space[A]
    costs: Mapping[str, Cost]
    limits: Mapping[str, tuple[float, float]]
    axis: str = MACS
    num_classes: int = 1000

    def rows(self, archs: list[A]) -> Rows:
        """The ``scalars`` of archs, ``(n, scalars)``."""
        return np.array([arch.scalars for arch in archs])

    def cost(self, arch: A, name: str | None = None) -> float:
        """A cost of one arch; None is that of the front."""
        return float(self.costs[name or self.axis](self.rows([arch]))[0])

    def feasible(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Whether each arch is within all limits, ``(n,)``."""
        result = np.ones(len(rows), dtype=bool)
        for name, (low, high) in self.limits.items():
            costs = self.costs[name](rows[result])
            result[result] = (costs >= low) & (costs <= high)
        return result

    def archs(self, rows: Rows) -> list[A]:
        """The archs with these scalars."""
        return [self.space.arch_of(row) for row in rows.tolist()]

    def within(self, archs: list[A]) -> list[A]:
        """The archs that are within all limits, in order."""
        if not archs:
            return []
        return [arch for arch, fits in zip(archs, self.feasible(self.rows(archs)), strict=True) if fits]

    def draw(self, count: int, rng: np.random.Generator) -> list[A]:
        """About ``count`` different archs within the limits, spread evenly over the range of MACs.

        The smallest and the largest arch are among them if they are within the limits.

        Raises:
            TargetError: (a ValueError) No arch within the limits was found.
        """
        found = dict.fromkeys(self.within([self.space.smallest, self.space.largest]))
        least, most = (
            self.space.count_macs(arch, self.num_classes) for arch in (self.space.smallest, self.space.largest)
        )
        low, high = self.limits.get(MACS, (0.0, math.inf))
        low, high = max(low, least), min(high, most)
        if low <= high:
            slices = max(1, min(SLICES, count - 2))
            edges = np.linspace(low, high, slices + 1)
            shares = np.diff(np.linspace(0, max(count - len(found), 1), slices + 1).round().astype(int))
            for start, end, share in zip(edges, edges[1:], shares, strict=False):
                found |= dict.fromkeys(self._drawn(float(start), float(end), int(share), rng))
        if not found:
            found |= dict.fromkeys(self._searched(count, rng))
        return list(found)

    def _drawn(self, low: float, high: float, count: int, rng: np.random.Generator) -> list[A]:
        """Up to ``count`` archs within the limits, uniform in a range of MACs."""
        found: dict[A, None] = {}
        constrained = any(name != MACS for name in self.limits)
        for attempt in range(6):
            missing = count - len(found)
            if missing < 1:
                break
            try:
                number = missing if not constrained else min(DRAWS, 4**attempt * missing)
                drawn = self.space.sample_within(low, high, number, rng, num_classes=self.num_classes)
            except TargetError:
                break
            found |= dict.fromkeys(self.within(drawn)[:missing])
        return list(found)

    def _searched(self, count: int, rng: np.random.Generator) -> list[A]:
        """Archs within the limits by plain sampling, or the error that describes what is possible."""
        if set(self.limits) <= {MACS}:
            low, high = self.limits.get(MACS, (0.0, 1e18))
            return self.space.sample_within(low, min(high, 1e18), 1, rng, num_classes=self.num_classes)
        drawn = 0
        while drawn < MOST_DRAWS:
            rows = self.space.sample_array(DRAWS, rng)
            drawn += len(rows)
            inside = rows[self.feasible(rows)]
            if len(inside):
                return self.archs(inside[:count])
        ends = "; ".join(
            f"the smallest arch has {cost_text(name, self.cost(self.space.smallest, name))} and the largest "
            f"{cost_text(name, self.cost(self.space.largest, name))}"
            for name in self.limits
        )
        raise TargetError(f"none of {drawn} random archs of {self.space.name} has {self.described()}; {ends}")

    def described(self) -> str:
        """The limits as text."""
        texts = []
        for name, (low, high) in self.limits.items():
            if math.isinf(high):
                texts.append(f"at least {cost_text(name, low)}")
            else:
                texts.append(f"{cost_text(name, low)} to {cost_text(name, high)}" if low else
                             f"at most {cost_text(name, high)}")  # fmt: skip
        return " and ".join(texts) or "any cost"


def make_problem(
    space: Space[A],
    limits: Mapping[str, Limit],
    *,
    num_classes: int,
    axis: str | None = None,
    device: LatencyModel | None = None,
) -> Problem[A]:
    """The problem of a search.

    Args:
        space: The search space.
        limits: The limits by cost: `MACS`, `PARAMS`, `LATENCY`.
        num_classes: Classes of the classifier.
        axis: The cost of the front; None is latency if it is limited, else MACs if they are limited or nothing is, else
            parameters.
        device: The latency model; required for `LATENCY`.

    Raises:
        UsageError: A cost is unknown, or latency is used without a model.
    """
    costs: dict[str, Cost] = {MACS: macs_of(space, num_classes), PARAMS: params_of(space, num_classes)}
    if device is not None:
        costs[LATENCY] = device.costs(space, num_classes)
    if axis is None:
        axis = next((name for name in (LATENCY, MACS, PARAMS) if name in limits), MACS)
    for name in {axis, *limits} - set(costs):
        raise UsageError("latency requires a latency model; pass --device device.json, which alphanet profile writes"
                         if name == LATENCY else f"unknown cost {name!r}; choose from {', '.join(UNITS)}")  # fmt: skip
    largest = np.array([space.largest.scalars])
    bounds = {name: limit.of(float(costs[name](largest)[0])) for name, limit in limits.items()}
    return Problem(space, costs, bounds, axis, num_classes)


def macs_of(space: Space[A], num_classes: int) -> Cost:
    """Multiply-accumulates of many archs."""

    def macs(rows: Rows) -> FloatArray:
        return np.asarray(space.count_macs(rows, num_classes), dtype=np.float64)  # type: ignore[arg-type]

    return macs


def params_of(space: Space[A], num_classes: int) -> Cost:
    """Parameters of many archs."""
    if isinstance(space, SearchSpace):
        chain, tables = Chain.of(space), params_tables(space, num_classes)
        return lambda rows: evaluate(chain, tables, rows)

    def params(rows: Rows) -> FloatArray:
        return np.asarray(space.count_params(rows, num_classes), dtype=np.float64)  # type: ignore[arg-type]

    return params
