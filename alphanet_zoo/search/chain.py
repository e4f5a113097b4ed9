"""Functions of an arch that add up along the chain of its stages, and their exact optimum. Loads no torch.

At a given resolution such a function is a sum over the parts of the chain (the stem, the stages, the head), each of
which depends on its own choices and on the width of the part before it. Tables store its values for all cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt

from alphanet_zoo.errors import TargetError
from alphanet_zoo.space.family import Space
from alphanet_zoo.space.shapes import BlockShape, block_params, stage_blocks, strided
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.space.tables import NO_COLUMN, cost_tables

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]

BISECTIONS = 12
"""Steps of the search for the multiplier of the bound."""


@dataclass(frozen=True)
class Chain:
    """The entries of the archs of a space, in parts.

    Args:
        choices: Choices of each entry, in the order of the ``scalars`` of an arch. Entry 0 is the resolution.
        parts: Entries of each part, its width first. All other entries than the resolution are in one part.
    """

    choices: tuple[tuple[Any, ...], ...]
    parts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, space: Space[Any]) -> Chain:
        """The chain of a space: stem, stages and head of AlphaNets; in other spaces each entry is a part."""
        choices = tuple(values for _, values in space.entries)
        if not isinstance(space, SearchSpace):
            return cls(choices, tuple((column,) for column in range(1, len(choices))))
        tables = cost_tables(space, 1)
        return cls(choices, tuple(tuple(c for c in table.columns if c != NO_COLUMN) for table in tables))

    def sizes(self, part: int) -> tuple[int, ...]:
        """Shape of the table of a part: ``(resolutions, widths of the part before, widths, other choices ...)``."""
        before = 1 if part == 0 else len(self.choices[self.parts[part - 1][0]])
        return (len(self.choices[0]), before, *(len(self.choices[column]) for column in self.parts[part]))

    def indices(self, rows: Rows) -> npt.NDArray[np.intp]:
        """The number of each entry among its choices, ``(n, scalars)``."""
        return np.stack([np.searchsorted(values, rows[:, i]) for i, values in enumerate(self.choices)], axis=1)

    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of neighbouring entries: of the same part, the widths of adjacent parts, and the resolution's."""
        inside = [(a, b) for part in self.parts for i, a in enumerate(part) for b in part[i + 1 :]]
        links = [(before[0], after[0]) for before, after in pairwise(self.parts)]
        return [*inside, *links, *((0, column) for part in self.parts for column in part)]


def evaluate(chain: Chain, tables: Sequence[FloatArray], rows: Rows) -> FloatArray:
    """Values ``(n,)`` of archs.

    Args:
        chain: The chain.
        tables: One table per part, with the shape of `Chain.sizes`.
        rows: The ``scalars`` of the archs, ``(n, scalars)``.
    """
    indices = chain.indices(rows)
    total = np.zeros(len(rows))
    before = np.zeros(len(rows), dtype=np.intp)
    for part, table in zip(chain.parts, tables, strict=True):
        total += table[(indices[:, 0], before, *(indices[:, column] for column in part))]
        before = indices[:, part[0]]
    return total


def macs_tables(space: SearchSpace, num_classes: int) -> list[FloatArray]:
    """Multiply-accumulates of every case."""
    chain = Chain.of(space)
    tables = cost_tables(space, num_classes)
    return [table.macs.astype(np.float64).reshape(chain.sizes(i)) for i, table in enumerate(tables)]


def params_tables(space: SearchSpace, num_classes: int) -> list[FloatArray]:
    """Parameters of every case."""

    def head(last: int, width: int, _: int) -> float:
        features = space.head_expand * last
        return (last + 2) * features + features * width + (width + 1) * num_classes

    return case_tables(space, lambda width, _: 29 * width, block_params, head)


def case_tables(
    space: SearchSpace,
    stem: Callable[[int, int], float],
    block: Callable[[BlockShape], float],
    head: Callable[[int, int, int], float],
) -> list[FloatArray]:
    """Tables of a quantity that is a sum over the stem, the blocks and the head.

    Args:
        space: The search space.
        stem: The quantity of the stem, given its width and the side of its output in pixels.
        block: The quantity of a block.
        head: The quantity of the head, given the width of the last stage, its own width, and the side of its input.
    """
    chain = Chain.of(space)
    tables = [np.zeros(chain.sizes(part)) for part in range(len(chain.parts))]
    known: dict[BlockShape, float] = {}
    for r, resolution in enumerate(space.resolution):
        size = strided(resolution, space.stem_stride)
        tables[0][r, 0] = [stem(width, size) for width in space.stem_width]
        before = space.stem_width
        for number, stage in enumerate(space.stages):
            for w, k, e, i in product(*(range(len(c)) for c in (stage.width, stage.kernel_size, stage.expand_ratio,
                                                                before))):  # fmt: skip
                blocks = stage_blocks(
                    stage, stage_index=0, first_index=0, in_channels=before[i], in_size=size, width=stage.width[w],
                    depth=stage.depth[-1], kernel_size=stage.kernel_size[k], expand_ratio=stage.expand_ratio[e],
                )  # fmt: skip
                shapes = [replace(each, index=0) for each in blocks]
                sums = np.cumsum([_cached(known, each, block) for each in shapes])
                tables[number + 1][r, i, w, :, k, e] = sums[[depth - 1 for depth in stage.depth]]
            size, before = strided(size, stage.stride), stage.width
        tables[-1][r] = [[head(last, width, size) for width in space.head_width] for last in before]
    return tables


def _cached(known: dict[BlockShape, float], shape: BlockShape, block: Callable[[BlockShape], float]) -> float:
    """The quantity of a block, computed once per shape."""
    if shape not in known:
        known[shape] = block(shape)
    return known[shape]


@dataclass(frozen=True, eq=False)
class _Labels:
    """Partial archs that end in one width, none of which is dominated; ``origin`` is ``(label, width, case)``."""

    cost: FloatArray
    value: FloatArray
    origin: npt.NDArray[np.intp]


def best_within(
    chain: Chain, values: Sequence[FloatArray], costs: Sequence[FloatArray], budget: float
) -> tuple[tuple[Any, ...], float]:
    """The arch with the greatest value within a budget, exactly.

    Dynamic programming over the parts keeps the partial archs that no other one dominates. Those that cannot lead to
    a better arch than the best known one are dropped; the bound is that of the Lagrangian relaxation.

    Args:
        chain: The chain.
        values: Tables of the value.
        costs: Tables of the cost, which must not be negative.
        budget: Greatest cost.

    Returns:
        The ``scalars`` of the arch, and its value.

    Raises:
        TargetError: No arch is within the budget.
    """
    best: tuple[float, tuple[int, list[int]]] | None = None
    flat = [[table.reshape(*table.shape[:3], -1) for table in tables] for tables in (values, costs)]
    bounds = []
    for r in range(len(chain.choices[0])):
        value, cost = ([table[r] for table in tables] for tables in flat)
        if _least(cost)[0].min() > budget:
            continue
        multiplier, found = _relaxed(value, cost, budget)
        if best is None or found[0] > best[0]:
            best = found[0], (r, found[1])
        bounds.append((r, multiplier))
    if best is None:
        raise TargetError(f"no arch costs {budget:.6g} or less")
    for r, multiplier in bounds:
        value, cost = ([table[r] for table in tables] for tables in flat)
        better = _exact(value, cost, budget, multiplier, best[0])
        if better is not None:
            best = better[0], (r, better[1])
    r, cases = best[1]
    return _scalars(chain, r, cases), float(best[0])


def _scalars(chain: Chain, resolution: int, cases: Sequence[int]) -> tuple[Any, ...]:
    """The scalars of the arch whose parts have these cases, numbered over a part's own choices."""
    scalars: list[Any] = [None] * len(chain.choices)
    scalars[0] = chain.choices[0][resolution]
    for number, (part, case) in enumerate(zip(chain.parts, cases, strict=True)):
        for column, index in zip(part, np.unravel_index(case, chain.sizes(number)[2:]), strict=True):
            scalars[column] = chain.choices[column][int(index)]
    return tuple(scalars)


def _least(tables: Sequence[FloatArray]) -> list[FloatArray]:
    """Least sum from each part on, by the width before it: entry t has shape ``(widths before part t,)``."""
    ahead = np.zeros(tables[-1].shape[1])
    result = [ahead]
    for table in reversed(tables):
        ahead = (table.min(axis=2) + ahead[None, :]).min(axis=1)
        result.append(ahead)
    return result[::-1]


def _relaxed(
    value: Sequence[FloatArray], cost: Sequence[FloatArray], budget: float
) -> tuple[float, tuple[float, list[int]]]:
    """The multiplier of the least bound, and the best arch within the budget that was met: value and cases."""
    low, high = 0.0, max(1e-12, float(sum(np.ptp(v) for v in value)) / max(float(sum(np.ptp(c) for c in cost)), 1e-12))
    best: tuple[float, list[int]] | None = None
    for _ in range(60):  # The multiplier at which even the best path is within the budget.
        path = _path(value, cost, high)
        if path[1] <= budget:
            break
        high *= 4
    else:
        path = _path([-c for c in cost], cost, 0.0)
        path = (sum(v[w, o, i] for v, (w, o, i) in zip(value, path[3], strict=True)), *path[1:])
    best = (path[0], path[2])
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        path = _path(value, cost, middle)
        if path[1] <= budget:
            high = middle
            best = max(best, (path[0], path[2]), key=lambda each: each[0])
        else:
            low = middle
    return high, best


def _path(
    value: Sequence[FloatArray], cost: Sequence[FloatArray], multiplier: float
) -> tuple[float, float, list[int], list[tuple[int, int, int]]]:
    """The path of greatest ``value - multiplier * cost``: its value, cost, cases and places in the tables."""
    reached, chosen = np.zeros(1), []
    for v, c in zip(value, cost, strict=True):
        gain = v - multiplier * c
        inner = gain.argmax(axis=2)
        total = reached[:, None] + np.take_along_axis(gain, inner[..., None], 2)[..., 0]
        origin = total.argmax(axis=0)
        chosen.append((origin, inner))
        reached = total.max(axis=0)
    width, places = int(reached.argmax()), list[tuple[int, int, int]]()
    for origin, inner in reversed(chosen):
        before = int(origin[width])
        places.append((before, width, int(inner[before, width])))
        width = before
    places.reverse()
    total_value = float(sum(v[place] for v, place in zip(value, places, strict=True)))
    total_cost = float(sum(c[place] for c, place in zip(cost, places, strict=True)))
    cases = [w * v.shape[2] + i for v, (_, w, i) in zip(value, places, strict=True)]
    return total_value, total_cost, cases, places


def _exact(
    value: Sequence[FloatArray], cost: Sequence[FloatArray], budget: float, multiplier: float, known: float
) -> tuple[float, list[int]] | None:
    """The best arch if its value is above ``known``; else None."""
    ahead = _least([-(v - multiplier * c) for v, c in zip(value, cost, strict=True)])
    cheapest = _least(cost)
    layers = [[_Labels(np.zeros(1), np.zeros(1), np.zeros((1, 3), dtype=np.intp))]]
    slack = 1e-9 * max(1.0, abs(known))
    for t, (v, c) in enumerate(zip(value, cost, strict=True)):
        following = []
        for width in range(v.shape[1]):
            pieces = []
            for before, labels in enumerate(layers[-1]):
                spent = labels.cost[:, None] + c[before, width]
                gained = labels.value[:, None] + v[before, width]
                bound = gained - ahead[t + 1][width] + multiplier * (budget - spent)
                label, case = np.nonzero((bound > known + slack) & (spent + cheapest[t + 1][width] <= budget))
                origin = np.stack([label, np.full_like(label, before), width * v.shape[2] + case], axis=1)
                pieces.append((spent[label, case], gained[label, case], origin))
            following.append(_undominated(*(np.concatenate(each) for each in zip(*pieces, strict=True))))
        layers.append(following)
    width = max(range(len(layers[-1])), key=lambda w: layers[-1][w].value.max(initial=-np.inf))
    last = layers[-1][width]
    if last.value.max(initial=known) <= known:
        return None
    place = int(last.value.argmax())
    best, cases = float(last.value[place]), list[int]()
    for layer in reversed(layers[1:]):
        place, width, number = (int(each) for each in layer[width].origin[place])
        cases.append(number)
    return best, cases[::-1]


def _undominated(cost: FloatArray, value: FloatArray, origin: npt.NDArray[np.intp]) -> _Labels:
    """The partial archs that have a greater value than every cheaper one."""
    order = np.lexsort((-value, cost))
    cost, value, origin = cost[order], value[order], origin[order]
    keep = np.ones(len(value), dtype=bool)
    keep[1:] = value[1:] > np.maximum.accumulate(value)[:-1]
    return _Labels(cost[keep], value[keep], origin[keep])
