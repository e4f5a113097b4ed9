"""Counting and drawing the archs of a window of costs, exactly.

A space is cut in two between links of its cost chain (see `tables`). Given the resolution and the width at the cut,
any left part goes with any right part and the costs add up. With the left costs in order, two binary searches tell
how many left parts bring a right part into the window, and which: nothing is binned and nothing rejected.
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
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.space.tables import NO_COLUMN, Int64Array, Link, cost_links

_MAX_PARTS = 2**25
_MAX_WINDOWS = 128  # of the ImageNet space, 70 windows of 25 M take 164 MB in all, one at most 8 MB
_CHUNK = 1024
_BEYOND = 2**62

Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _Parts:
    """All left or all right parts at one resolution and one width at the cut.

    ``costs`` are MACs, ascending; ``numbers`` say which part each is, as `_write_choices` reads them.
    """

    costs: Int64Array
    numbers: Numbers


@dataclass(frozen=True, eq=False)
class _Halves:
    """A space cut in two: the links of either half, and the parts that meet at each resolution and width."""

    left_links: tuple[Link, ...]
    right_links: tuple[Link, ...]
    meetings: tuple[tuple[_Parts, _Parts], ...]


@dataclass(frozen=True, eq=False)
class _Window:
    """The archs that cost ``low`` to ``high``: each right part that has any, and how many there are up to it.

    Right part ``rights[i]``, counted through all meetings, belongs to the archs ``ends[i - 1]`` to ``ends[i] - 1``.
    """

    low: int
    high: int
    rights: Numbers
    ends: Int64Array

    @property
    def total(self) -> int:
        """Number of archs."""
        return int(self.ends[-1]) if len(self.ends) else 0


def count_within(space: SearchSpace, low: float, high: float, num_classes: int = 1000) -> int:
    """The exact number of archs of ``space`` that cost ``low`` to ``high`` MACs, both included.

    Raises:
        ValueError: ``low`` is above ``high``, one of them is no number, or the space is too large.
    """
    return _window(space, *_whole_bounds(low, high), num_classes).total


def draw_within(
    space: SearchSpace, low: float, high: float, n: int, rng: np.random.Generator, num_classes: int = 1000
) -> list[ArchSpec]:
    """Draws ``n`` archs, with replacement, exactly uniformly from those that cost ``low`` to ``high`` MACs.

    The first call for a space and the first for a window take longer than the next ones, which find their
    tables ready.

    Args:
        space: The search space.
        low: Least cost, in multiply-accumulates (not millions).
        high: Greatest cost, included.
        n: Number of archs.
        rng: Source of randomness; the draw is a function of its state.
        num_classes: Classes of the classifier, which the cost counts.

    Raises:
        TargetError: (a ValueError) No arch costs that much; the message says the nearest costs.
        ValueError: ``low`` is above ``high``, one of them is no number, ``n`` is negative or no integer, or the
            space is too large.
    """
    if not hasattr(n, "__index__") or operator.index(n) < 0:
        raise ValueError(f"the number of archs to draw is {n!r}; give an integer of 0 or more")
    window = _window(space, *_whole_bounds(low, high), num_classes)
    if not window.total:
        raise TargetError(_nearest(space, low, high, num_classes))
    rows = _archs_at(space, window, rng.integers(window.total, size=n), num_classes)
    in_chunks = (row for start in range(0, len(rows), _CHUNK) for row in rows[start : start + _CHUNK].tolist())
    return ArchSpec._of_valid_rows(in_chunks, len(space.stages))


def _whole_bounds(low: float, high: float) -> tuple[int, int]:
    """The integers of the window, or the reason why it is none."""
    if math.isnan(low) or math.isnan(high) or low > high:
        raise ValueError(f"the window of MACs is {low} to {high}; give two numbers, the lower first")
    return math.ceil(min(max(low, 0), _BEYOND)), math.floor(min(max(high, 0), _BEYOND))


@lru_cache(maxsize=_MAX_WINDOWS)
def _window(space: SearchSpace, low: int, high: int, num_classes: int) -> _Window:
    """Counts, for every right part, the left parts that bring it into the window."""
    counts = np.concatenate(
        [
            np.searchsorted(left.costs, high - right.costs, side="right")
            - np.searchsorted(left.costs, low - right.costs)
            for left, right in _halves(space, num_classes).meetings
        ]
    )
    rights = np.flatnonzero(counts > 0)
    return _Window(low, high, rights.astype(np.int32), np.cumsum(counts[rights]))


@lru_cache(maxsize=4)
def _halves(space: SearchSpace, num_classes: int) -> _Halves:
    """Cuts the space where that leaves the fewest parts, and puts the parts in order of cost."""
    links = cost_links(space, num_classes)
    sizes = [_num_parts(links[:i]) + _num_parts(links[i:]) for i in range(1, len(links))]
    if min(sizes) > _MAX_PARTS:
        raise ValueError(
            f"the space {space.name}, cut in two, has {min(sizes)} parts; sampling by cost holds up to {_MAX_PARTS}: "
            "give a space of fewer choices"
        )
    cut = sizes.index(min(sizes)) + 1
    left, right = _chain(links[:cut]), _chain(links[cut:])
    resolutions, _, states, _ = left.shape
    left_numbers = np.arange(left.size, dtype=np.int32).reshape(left.shape)
    right = right.reshape(resolutions, states, -1)
    right_numbers = np.arange(right.size, dtype=np.int32).reshape(right.shape)
    meetings = tuple(
        (_in_order(left[i, :, j], left_numbers[i, :, j]), _in_order(right[i, j], right_numbers[i, j]))
        for i in range(resolutions)
        for j in range(states)
    )
    return _Halves(links[:cut], links[cut:], meetings)


def _num_parts(links: tuple[Link, ...]) -> int:
    """The number of ways to choose a resolution, the width that enters, and all choices of ``links``."""
    return math.prod(links[0].macs.shape[:2]) * math.prod(math.prod(link.macs.shape[2:]) for link in links)


def _chain(links: tuple[Link, ...]) -> Int64Array:
    """Costs of all parts: ``[resolution, all choices before the last link, its width, its other choices]``."""
    costs = links[0].macs.reshape(*links[0].macs.shape[:3], -1)
    for link in links[1:]:
        resolutions, entering, widths = link.macs.shape[:3]
        costs = costs[..., None, None] + link.macs.reshape(resolutions, 1, entering, 1, widths, -1)
        costs = costs.reshape(resolutions, -1, *costs.shape[-2:])
    return costs


def _in_order(costs: Int64Array, numbers: Numbers) -> _Parts:
    """The parts in order of cost; equals keep theirs, so that every machine has the same order."""
    order = np.argsort(costs, axis=None, kind="stable")
    return _Parts(costs.ravel()[order], numbers.ravel()[order])


def _archs_at(space: SearchSpace, window: _Window, places: Int64Array, num_classes: int) -> Int64Array:
    """The archs at these places of the window: ``(n, scalars)``, a row an `ArchSpec.scalars`."""
    halves = _halves(space, num_classes)
    entry = np.searchsorted(window.ends, places, side="right")
    rights = window.rights[entry]
    within = places - np.where(entry > 0, window.ends[entry - 1], 0)
    left_numbers, right_numbers = np.empty((2, len(places)), dtype=np.int32)
    first = 0
    for left, right in halves.meetings:
        here = np.flatnonzero((rights >= first) & (rights < first + len(right.costs)))
        at_right = rights[here] - first
        at_left = np.searchsorted(left.costs, window.low - right.costs[at_right]) + within[here]
        left_numbers[here], right_numbers[here] = left.numbers[at_left], right.numbers[at_right]
        first += len(right.costs)
    rows = np.empty((len(places), len(space.entries)), dtype=np.int64)
    _write_choices(rows, space, halves.left_links, left_numbers)
    _write_choices(rows, space, halves.right_links, right_numbers)
    return rows


def _write_choices(rows: Int64Array, space: SearchSpace, links: tuple[Link, ...], numbers: Numbers) -> None:
    """Writes what each part chose into its row: a number is the part's place in the flattened `_chain`."""
    lengths = (*links[0].macs.shape[:2], *(length for link in links for length in link.macs.shape[2:]))
    columns = (0, NO_COLUMN, *(column for link in links for column in link.columns))
    for length, column in zip(reversed(lengths), reversed(columns), strict=True):
        numbers, choice = np.divmod(numbers, np.int32(length))
        if column != NO_COLUMN:
            rows[:, column] = np.array(space.entries[column][1]).take(choice)


def _nearest(space: SearchSpace, low: float, high: float, num_classes: int) -> str:
    """Says that no arch is in the window, and what the nearest ones cost."""
    below, above = [], []
    for left, right in _halves(space, num_classes).meetings:
        place = np.searchsorted(left.costs, _whole_bounds(low, high)[0] - right.costs)
        has_below, has_above = place > 0, place < len(left.costs)
        below += [left.costs[place[has_below] - 1] + right.costs[has_below]]
        above += [left.costs[place[has_above]] + right.costs[has_above]]
    less, more = np.concatenate(below), np.concatenate(above)
    nearest = [f"below costs {less.max()} ({less.max() / 1e6:.2f} M)"] if len(less) else []
    nearest += [f"above costs {more.min()} ({more.min() / 1e6:.2f} M)"] if len(more) else []
    return f"no arch of the space {space.name} costs {low} to {high} MACs; the nearest {', '.join(nearest)}"
