"""Exact counting and uniform sampling of the archs within a window of costs.

The cost tables of a space (see `tables`) are cut into a left and a right half. A *partial arch* is one choice for every
entry of a half. For a given resolution and width at the cut, every left partial arch can be combined with every right
one, and their costs add up. With the left costs sorted, two binary searches give the number and the range of left
partial archs that bring a right one into the window. Nothing is binned and nothing is rejected.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from alphanet_zoo.errors import TargetError
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.choices import SpaceChoices
from alphanet_zoo.space.tables import NO_COLUMN, CostTable, Int64Array, cost_tables

_MAX_PARTIAL_ARCHS = 2**25
_MAX_WINDOWS = 128  # ImageNet space: 70 windows of 25 M MACs take 164 MB in total, at most 8 MB each
_CHUNK = 1024
_BEYOND = 2**62

Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _PartialArchs:
    """All partial archs of one half at one resolution and one width at the cut, by ascending cost.

    Attributes:
        costs: MACs, ascending.
        indices: Flat index of each partial arch, decoded by `_write_choices`.
    """

    costs: Int64Array
    indices: Indices


@dataclass(frozen=True, eq=False)
class _Halves:
    """A space cut in two.

    Attributes:
        left_tables: Cost tables of the left half.
        right_tables: Cost tables of the right half.
        pairs: The left and right partial archs that can be combined, per resolution and width at the cut.
    """

    left_tables: tuple[CostTable, ...]
    right_tables: tuple[CostTable, ...]
    pairs: tuple[tuple[_PartialArchs, _PartialArchs], ...]


@dataclass(frozen=True, eq=False)
class _Window:
    """The archs that cost ``low`` to ``high``, numbered from 0.

    Archs ``ends[i - 1]`` to ``ends[i] - 1`` contain the right partial arch ``rights[i]``.

    Attributes:
        low: Least cost.
        high: Greatest cost.
        rights: Right partial archs that occur in the window, counted through all pairs.
        ends: Cumulative number of archs.
    """

    low: int
    high: int
    rights: Indices
    ends: Int64Array

    @property
    def total(self) -> int:
        """Number of archs."""
        return int(self.ends[-1]) if len(self.ends) else 0


def count_within(space: SpaceChoices, low: float, high: float, num_classes: int = 1000) -> int:
    """The exact number of archs of ``space`` that cost ``low`` to ``high`` MACs (inclusive).

    Raises:
        ValueError: ``low`` is above ``high``, a bound is not a number, or the space is too large.
    """
    return _window(space, *_whole_bounds(low, high), num_classes).total


def draw_within(
    space: SpaceChoices, low: float, high: float, n: int, rng: np.random.Generator, num_classes: int = 1000
) -> list[ArchSpec]:
    """Draws ``n`` archs with replacement, exactly uniformly from those that cost ``low`` to ``high`` MACs.

    The first call for a space and the first call for a window build tables that later calls reuse.

    Args:
        space: The search space.
        low: Least cost, in multiply-accumulates (not millions).
        high: Greatest cost (inclusive).
        n: Number of archs.
        rng: Source of randomness.
        num_classes: Classes of the classifier, which is part of the cost.

    Raises:
        TargetError: (a ValueError) No arch costs that much; the message names the nearest costs.
        ValueError: ``low`` is above ``high``, a bound is not a number, ``n`` is negative or not an integer, or the
            space is too large.
    """
    if not hasattr(n, "__index__") or operator.index(n) < 0:
        raise ValueError(f"the number of archs to draw is {n!r}; pass an integer of at least 0")
    window = _window(space, *_whole_bounds(low, high), num_classes)
    if not window.total:
        raise TargetError(_nearest(space, low, high, num_classes))
    rows = _archs_at(space, window, rng.integers(window.total, size=n), num_classes)
    in_chunks = (row for start in range(0, len(rows), _CHUNK) for row in rows[start : start + _CHUNK].tolist())
    return ArchSpec._of_valid_rows(in_chunks, len(space.stages))


def _whole_bounds(low: float, high: float) -> tuple[int, int]:
    """The window as integers.

    Raises:
        ValueError: The bounds are not two ascending numbers.
    """
    if math.isnan(low) or math.isnan(high) or low > high:
        raise ValueError(f"the window of MACs is {low} to {high}; pass two numbers, the lower one first")
    return math.ceil(min(max(low, 0), _BEYOND)), math.floor(min(max(high, 0), _BEYOND))


@lru_cache(maxsize=_MAX_WINDOWS)
def _window(space: SpaceChoices, low: int, high: int, num_classes: int) -> _Window:
    """Counts, for every right partial arch, the left ones that bring it into the window."""
    counts = np.concatenate(
        [
            np.searchsorted(left.costs, high - right.costs, side="right")
            - np.searchsorted(left.costs, low - right.costs)
            for left, right in _halves(space, num_classes).pairs
        ]
    )
    rights = np.flatnonzero(counts > 0)
    return _Window(low, high, rights.astype(np.int32), np.cumsum(counts[rights]))


@lru_cache(maxsize=4)
def _halves(space: SpaceChoices, num_classes: int) -> _Halves:
    """Cuts the space such that the number of partial archs is least, and sorts them by cost."""
    tables = cost_tables(space, num_classes)
    sizes = [_num_partial_archs(tables[:i]) + _num_partial_archs(tables[i:]) for i in range(1, len(tables))]
    if min(sizes) > _MAX_PARTIAL_ARCHS:
        raise ValueError(
            f"the space {space.name}, cut in two, has {min(sizes)} partial archs; sampling by cost supports up to "
            f"{_MAX_PARTIAL_ARCHS}: pass a space with fewer choices"
        )
    cut = sizes.index(min(sizes)) + 1
    left, right = _partial_costs(tables[:cut]), _partial_costs(tables[cut:])
    resolutions, _, states, _ = left.shape
    left_indices = np.arange(left.size, dtype=np.int32).reshape(left.shape)
    right = right.reshape(resolutions, states, -1)
    right_indices = np.arange(right.size, dtype=np.int32).reshape(right.shape)
    pairs = tuple(
        (_in_order(left[i, :, j], left_indices[i, :, j]), _in_order(right[i, j], right_indices[i, j]))
        for i in range(resolutions)
        for j in range(states)
    )
    return _Halves(tables[:cut], tables[cut:], pairs)


def _num_partial_archs(tables: tuple[CostTable, ...]) -> int:
    """Number of combinations of the resolution, the input width and all choices of ``tables``."""
    return math.prod(tables[0].macs.shape[:2]) * math.prod(math.prod(table.macs.shape[2:]) for table in tables)


def _partial_costs(tables: tuple[CostTable, ...]) -> Int64Array:
    """Costs of all partial archs: ``[resolution, choices before the last table, its width, its other choices]``."""
    costs = tables[0].macs.reshape(*tables[0].macs.shape[:3], -1)
    for table in tables[1:]:
        resolutions, entering, widths = table.macs.shape[:3]
        costs = costs[..., None, None] + table.macs.reshape(resolutions, 1, entering, 1, widths, -1)
        costs = costs.reshape(resolutions, -1, *costs.shape[-2:])
    return costs


def _in_order(costs: Int64Array, indices: Indices) -> _PartialArchs:
    """Sorts partial archs by cost. The sort is stable, so that the order is the same on every machine."""
    order = np.argsort(costs, axis=None, kind="stable")
    return _PartialArchs(costs.ravel()[order], indices.ravel()[order])


def _archs_at(space: SpaceChoices, window: _Window, numbers: Int64Array, num_classes: int) -> Int64Array:
    """The archs with these numbers in the window: ``(n, scalars)``, one `ArchSpec.scalars` per row."""
    halves = _halves(space, num_classes)
    entry = np.searchsorted(window.ends, numbers, side="right")
    rights = window.rights[entry]
    within = numbers - np.where(entry > 0, window.ends[entry - 1], 0)
    left_indices, right_indices = np.empty((2, len(numbers)), dtype=np.int32)
    first = 0
    for left, right in halves.pairs:
        here = np.flatnonzero((rights >= first) & (rights < first + len(right.costs)))
        at_right = rights[here] - first
        at_left = np.searchsorted(left.costs, window.low - right.costs[at_right]) + within[here]
        left_indices[here], right_indices[here] = left.indices[at_left], right.indices[at_right]
        first += len(right.costs)
    rows = np.empty((len(numbers), len(space.entries)), dtype=np.int64)
    _write_choices(rows, space, halves.left_tables, left_indices)
    _write_choices(rows, space, halves.right_tables, right_indices)
    return rows


def _write_choices(rows: Int64Array, space: SpaceChoices, tables: tuple[CostTable, ...], indices: Indices) -> None:
    """Writes the choices of partial archs into their rows; an index is a position in the flattened `_partial_costs`."""
    lengths = (*tables[0].macs.shape[:2], *(length for table in tables for length in table.macs.shape[2:]))
    columns = (0, NO_COLUMN, *(column for table in tables for column in table.columns))
    for length, column in zip(reversed(lengths), reversed(columns), strict=True):
        indices, choice = np.divmod(indices, np.int32(length))
        if column != NO_COLUMN:
            rows[:, column] = np.array(space.entries[column][1]).take(choice)


def _nearest(space: SpaceChoices, low: float, high: float, num_classes: int) -> str:
    """Error message: no arch is in the window; names the nearest costs below and above."""
    below, above = [], []
    for left, right in _halves(space, num_classes).pairs:
        place = np.searchsorted(left.costs, _whole_bounds(low, high)[0] - right.costs)
        has_below, has_above = place > 0, place < len(left.costs)
        below += [left.costs[place[has_below] - 1] + right.costs[has_below]]
        above += [left.costs[place[has_above]] + right.costs[has_above]]
    less, more = np.concatenate(below), np.concatenate(above)
    nearest = [f"below costs {less.max()} ({less.max() / 1e6:.2f} M)"] if len(less) else []
    nearest += [f"above costs {more.min()} ({more.min() / 1e6:.2f} M)"] if len(more) else []
    window = f"{low:.0f} to {high:.0f} MACs"
    return f"no arch of the space {space.name} costs {window}; the nearest {', '.join(nearest)}"
