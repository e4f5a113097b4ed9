"""Tables of the cost of every part of a space, to count many archs at once.

At a given resolution, the cost of an arch is a sum over the stem, the stages and the head. Each of these depends only
on its own choices and on the width of its input. One table per part stores the cost of every case, computed by the
functions that count a single arch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, product
from typing import Any

import numpy as np
import numpy.typing as npt

from alphanet_zoo.space.choices import SpaceChoices, Stage
from alphanet_zoo.space.shapes import (
    block_macs,
    head_macs,
    net_macs,
    net_shape,
    stage_blocks,
    stem_macs,
    strided,
)

IntArray = npt.NDArray[np.integer[Any]]
Int64Array = npt.NDArray[np.int64]

NO_COLUMN = -1
"""Column number of a table axis that is not an entry of an arch."""

_CHUNK = 1024
_NO_CHOICE = -(2**40)
_MAX_MACS = 2**60


@dataclass(frozen=True, eq=False)
class CostTable:
    """Costs of one part of a net: the stem, a stage or the head.

    Attributes:
        columns: Positions of the part's width, depth, kernel size and expansion ratio in `ArchSpec.scalars`. The stem
            and the head have a width only; the others are `NO_COLUMN`.
        macs: Multiply-accumulates, int64, indexed by choice: ``[resolution, input width, width, depth, kernel_size,
            expand_ratio]``. Axes without a choice have length 1.
    """

    columns: tuple[int, int, int, int]
    macs: Int64Array


@lru_cache(maxsize=16)
def cost_tables(space: SpaceChoices, num_classes: int) -> tuple[CostTable, ...]:
    """The tables of ``space``: the stem, each stage, the head.

    Raises:
        ValueError: Costs do not fit into 64-bit integers.

    Source: docs/specification.md, section 3, "Cost".
    """
    if net_macs(net_shape(space, space.largest), num_classes) > _MAX_MACS:
        raise ValueError(
            f"the space {space.name} has archs of more than {_MAX_MACS} MACs at {num_classes} classes, too many for "
            "64-bit counts; pass a smaller space"
        )
    stages = len(space.stages)
    sizes = [strided(resolution, space.stem_stride) for resolution in space.resolution]
    stem = np.array([[stem_macs(width, size) for width in space.stem_width] for size in sizes], dtype=np.int64)
    tables = [CostTable((1, NO_COLUMN, NO_COLUMN, NO_COLUMN), stem[:, None, :, None, None, None])]
    in_width = space.stem_width
    for i, stage in enumerate(space.stages):
        columns = (i + 2, i + stages + 3, i + 2 * stages + 3, i + 3 * stages + 3)
        tables.append(CostTable(columns, np.stack([_stage_macs(stage, in_width, size) for size in sizes])))
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
    tables.append(CostTable((stages + 2, NO_COLUMN, NO_COLUMN, NO_COLUMN), head[:, :, :, None, None, None]))
    return tuple(tables)


def _stage_macs(stage: Stage, in_width: tuple[int, ...], in_size: int) -> Int64Array:
    """Costs of one stage at one resolution: ``[input width, width, depth, kernel_size, expand_ratio]``."""
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
    """Maps rows to the costs of one table: ``macs[sum of offsets[row[column]] over (column, offsets)]``."""

    addends: tuple[tuple[int, Int64Array], ...]
    macs: Int64Array


@lru_cache(maxsize=16)
def _lookups(space: SpaceChoices, num_classes: int) -> tuple[_Lookup, ...]:
    """One `_Lookup` per cost table."""

    def addends(table: CostTable, input_column: int) -> Iterator[tuple[int, Int64Array]]:
        strides = [stride // table.macs.itemsize for stride in np.ascontiguousarray(table.macs).strides]
        for axis, column in enumerate((0, input_column, *table.columns)):
            if column != NO_COLUMN:
                choices = space.entries[column][1]
                offsets = np.full(choices[-1] + 2, _NO_CHOICE)
                offsets[list(choices)] = np.arange(len(choices)) * strides[axis]
                yield column, offsets

    tables = cost_tables(space, num_classes)
    input_columns = (NO_COLUMN, *(table.columns[0] for table in tables))
    return tuple(
        _Lookup(tuple(addends(table, column)), table.macs.ravel())
        for table, column in zip(tables, input_columns, strict=False)
    )


def count_rows(space: SpaceChoices, rows: IntArray, num_classes: int) -> Int64Array:
    """Multiply-accumulates of many archs of ``space``; called by `count_macs`.

    Args:
        space: The search space of the archs.
        rows: ``(n, scalars)`` integers, one `ArchSpec.scalars` per row.
        num_classes: Outputs of the classifier.

    Returns:
        ``(n,)`` int64.

    Raises:
        ValueError: ``rows`` has a wrong shape or type, or a row is not in ``space``; the message names the row, the
            entry, its value and the choices.
    """
    scalars = len(space.entries)
    if rows.ndim != 2 or rows.shape[1] != scalars or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"archs have shape {rows.shape} and type {rows.dtype}; pass integers of shape (n, {scalars}), "
            f"one row per arch of the space {space.name} (ArchSpec.scalars)"
        )
    lookups = _lookups(space, num_classes)
    macs = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        columns = np.ascontiguousarray(chunk.T, dtype=np.intp)
        for lookup in lookups:
            # A value outside the table is clipped to its first or last entry; neither is a valid choice.
            index = np.zeros(len(chunk), dtype=np.int64)
            for column, offsets in lookup.addends:
                index += offsets.take(columns[column], mode="clip")
            if index.min() < 0:
                raise ValueError(_refusal(space, chunk, start))
            macs[start : start + _CHUNK] += lookup.macs.take(index)
    return macs


def _refusal(space: SpaceChoices, chunk: IntArray, start: int) -> str:
    """Error message for the first row of ``chunk`` that is not in ``space``."""
    valid = np.stack([np.isin(chunk[:, i], choices) for i, (_, choices) in enumerate(space.entries)], axis=1)
    row, column = np.argwhere(~valid)[0]
    return f"row {start + row}: {space.refusal(column, int(chunk[row, column]))}"
