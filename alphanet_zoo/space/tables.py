"""The cost of every piece of a space, looked up instead of computed.

Given the resolution, the cost of an arch is a chain: each link (stem, stages, head) costs what its own choices and
the width that enters it say. The tables hold one number for each of these cases, made by the same functions that
count a single arch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, product

import numpy as np
import numpy.typing as npt

from alphanet_zoo.space.cost import block_macs, head_macs, shape_macs, stem_macs
from alphanet_zoo.space.shapes import net_shape, stage_blocks, strided
from alphanet_zoo.space.space import IntArray, SearchSpace, Stage

Int64Array = npt.NDArray[np.int64]

NO_COLUMN = -1
"""Stands where an axis of a table is no entry of an arch."""

_CHUNK = 1024
_NO_CHOICE = -(2**40)
_MAX_MACS = 2**60


@dataclass(frozen=True, eq=False)
class Link:
    """One link of the chain: the stem, a stage or the head.

    Args:
        columns: Where the link's width, depth, kernel size and expansion stand among `ArchSpec.scalars`. The stem
            and the head have a width alone; what a link does not have is `NO_COLUMN`.
        macs: Multiply-accumulates, int64, by the number of each choice: ``[resolution, width that enters, width,
            depth, kernel_size, expand_ratio]``. Axes that a link has no choice in have length 1.
    """

    columns: tuple[int, int, int, int]
    macs: Int64Array


@lru_cache(maxsize=16)
def cost_links(space: SearchSpace, num_classes: int) -> tuple[Link, ...]:
    """The chain of ``space``: the stem, each stage, the head.

    Raises:
        ValueError: Costs do not fit 64-bit integers.

    Source: docs/specification.md, section 3, "Cost".
    """
    if shape_macs(net_shape(space, space.largest), num_classes) > _MAX_MACS:
        raise ValueError(
            f"the space {space.name} has archs of more than {_MAX_MACS} MACs at {num_classes} classes; "
            "that is more than can be counted in bulk: give a smaller one"
        )
    stages = len(space.stages)
    sizes = [strided(resolution, space.stem_stride) for resolution in space.resolution]
    stem = np.array([[stem_macs(width, size) for width in space.stem_width] for size in sizes], dtype=np.int64)
    links = [Link((1, NO_COLUMN, NO_COLUMN, NO_COLUMN), stem[:, None, :, None, None, None])]
    in_width = space.stem_width
    for i, stage in enumerate(space.stages):
        columns = (i + 2, i + stages + 3, i + 2 * stages + 3, i + 3 * stages + 3)
        links.append(Link(columns, np.stack([_stage_macs(stage, in_width, size) for size in sizes])))
        sizes = [strided(size, stage.stride) for size in sizes]
        in_width = stage.width
    head = np.array(
        [
            [
                [head_macs(last, space.head_expand * last, width, size, num_classes) for width in space.head_width]
                for last in in_width
            ]
            for size in sizes
        ],
        dtype=np.int64,
    )
    links.append(Link((stages + 2, NO_COLUMN, NO_COLUMN, NO_COLUMN), head[:, :, :, None, None, None]))
    return tuple(links)


def _stage_macs(stage: Stage, in_width: tuple[int, ...], in_size: int) -> Int64Array:
    """Costs of one stage at one resolution: ``[width that enters, width, depth, kernel_size, expand_ratio]``."""
    cases = product(in_width, stage.width, stage.kernel_size, stage.expand_ratio)
    macs = []
    for in_channels, width, kernel_size, expand_ratio in cases:
        blocks = stage_blocks(
            stage,
            stage_index=0,
            first_index=0,
            in_channels=in_channels,
            in_size=in_size,
            width=width,
            depth=stage.depth[-1],
            kernel_size=kernel_size,
            expand_ratio=expand_ratio,
        )
        of_depth = list(accumulate(block_macs(block) for block in blocks))
        macs.append([of_depth[depth - 1] for depth in stage.depth])
    shape = (len(in_width), len(stage.width), len(stage.kernel_size), len(stage.expand_ratio), len(stage.depth))
    return np.moveaxis(np.array(macs, dtype=np.int64).reshape(shape), -1, 2)


@dataclass(frozen=True, eq=False)
class _Lookup:
    """How rows find one link's costs: ``macs[sum of table[row[column]] over (column, table)]``."""

    addends: tuple[tuple[int, Int64Array], ...]
    macs: Int64Array


@lru_cache(maxsize=16)
def _lookups(space: SearchSpace, num_classes: int) -> tuple[_Lookup, ...]:
    """One `_Lookup` a link."""

    def addends(link: Link, entering: int) -> Iterator[tuple[int, Int64Array]]:
        strides = [stride // link.macs.itemsize for stride in np.ascontiguousarray(link.macs).strides]
        for axis, column in enumerate((0, entering, *link.columns)):
            if column != NO_COLUMN:
                choices = space.entries[column][1]
                table = np.full(choices[-1] + 2, _NO_CHOICE)
                table[list(choices)] = np.arange(len(choices)) * strides[axis]
                yield column, table

    links = cost_links(space, num_classes)
    entering = (NO_COLUMN, *(link.columns[0] for link in links))
    return tuple(
        _Lookup(tuple(addends(link, column)), link.macs.ravel()) for link, column in zip(links, entering, strict=False)
    )


def count_rows(space: SearchSpace, rows: IntArray, num_classes: int) -> Int64Array:
    """Multiply-accumulates of many archs of ``space``; `count_macs` calls it.

    Args:
        space: The search space that the archs come from.
        rows: ``(n, scalars)`` integers, a row an `ArchSpec.scalars`.
        num_classes: Outputs of the classifier.

    Returns:
        ``(n,)`` int64.

    Raises:
        ValueError: ``rows`` has another shape or no integers, or a row is not in ``space``: names the row, the
            entry, its value and the choices.
    """
    scalars = len(space.entries)
    if rows.ndim != 2 or rows.shape[1] != scalars or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"archs of shape {rows.shape} and type {rows.dtype}; give integers of shape (n, {scalars}), "
            f"a row the scalars of an arch of the space {space.name}"
        )
    lookups = _lookups(space, num_classes)
    macs = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        columns = np.ascontiguousarray(chunk.T, dtype=np.intp)
        for lookup in lookups:
            # Clipped, a value beyond the table's ends falls on one of them, and neither end is a choice.
            index = np.zeros(len(chunk), dtype=np.int64)
            for column, table in lookup.addends:
                index += table.take(columns[column], mode="clip")
            if index.min() < 0:
                raise ValueError(_refusal(space, chunk, start))
            macs[start : start + _CHUNK] += lookup.macs.take(index)
    return macs


def _refusal(space: SearchSpace, chunk: IntArray, start: int) -> str:
    """Why the first row of ``chunk`` that is not in ``space`` is not."""
    valid = np.stack([np.isin(chunk[:, i], choices) for i, (_, choices) in enumerate(space.entries)], axis=1)
    row, column = np.argwhere(~valid)[0]
    return f"row {start + row}: {space.refusal(column, int(chunk[row, column]))}"
