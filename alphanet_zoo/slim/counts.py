"""Counts the cost of the archs of a slimmable network. Plain Python and NumPy; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.choices import Rows, SlimChoices
from alphanet_zoo.slim.cost import Cost, FloatArray, Int64Array

CHUNK = 4096
"""Archs that are counted at once."""


@dataclass(frozen=True, eq=False, repr=False)
class SlimCounts(SlimChoices):
    """The choices of a slimmable network, which count the cost of its archs. Attributes as `SlimChoices`."""

    def kept_atoms(self, arch: SlimArch) -> tuple[int, ...]:
        """The atoms that each group keeps in an arch."""
        widths = zip(self.validate(arch).width, self.variables, strict=True)
        atoms = self._atoms([np.array([choices.index(width)]) for width, (_, choices, _) in widths])
        return tuple(int(count) for count in atoms[:, 0])

    def dropped_blocks(self, arch: SlimArch) -> tuple[str, ...]:
        """The names of the blocks that an arch leaves out."""
        pairs = zip(self.chains, self.validate(arch).depth, strict=True)
        return tuple(b for c, depth in pairs for b in c.blocks[len(c.blocks) - (c.length - depth) :])

    @overload
    def count_macs(self, arch: SlimArch, num_classes: int | None = None) -> int: ...
    @overload
    def count_macs(self, arch: Rows, num_classes: int | None = None) -> Int64Array: ...
    def count_macs(self, arch: SlimArch | Rows, num_classes: int | None = None) -> int | Int64Array:
        """Multiply-accumulates (MACs) for one image at the arch's resolution: convolutions and matrix products.

        Args:
            arch: An arch, or many: ``(n, scalars)``, one `SlimArch.scalars` per row.
            num_classes: Must be the outputs of the network, or None.

        Raises:
            ValueError: An arch is not in this space, or ``num_classes`` is another number.
        """
        return self._count(arch, num_classes, self.macs)

    @overload
    def count_params(self, arch: SlimArch, num_classes: int | None = None) -> int: ...
    @overload
    def count_params(self, arch: Rows, num_classes: int | None = None) -> Int64Array: ...
    def count_params(self, arch: SlimArch | Rows, num_classes: int | None = None) -> int | Int64Array:
        """Number of parameters of the extracted network; arguments and errors as `count_macs`."""
        return self._count(arch, num_classes, (self.params,) * len(self.resolution))

    def _count(self, arch: SlimArch | Rows, num_classes: int | None, costs: Sequence[Cost]) -> int | Int64Array:
        """Costs of an arch or of rows, with one polynomial per resolution."""
        if num_classes not in (None, self.num_classes):
            raise ValueError(f"num_classes is {num_classes}; the network {self.name} has {self.num_classes}")
        if isinstance(arch, SlimArch):
            return int(self.count_rows(np.array([self.validate(arch).scalars], dtype=np.float64), costs)[0])
        if not isinstance(arch, np.ndarray) or arch.ndim != 2 or arch.shape[1] != len(self.entries):
            raise ValueError(
                f"cannot count a {type(arch).__name__}; pass a SlimArch, or an array (n, {len(self.entries)}) with one "
                "SlimArch.scalars per row"
            )
        return self.count_rows(arch, costs)

    def count_rows(self, rows: Rows, costs: Sequence[Cost]) -> Int64Array:
        """Costs ``(n,)`` of rows, with one polynomial per resolution.

        Raises:
            ValueError: A value is not a choice; the message names the row and the entry.
        """
        result = np.empty(len(rows), dtype=np.int64)
        for start in range(0, len(rows), CHUNK):
            columns = np.ascontiguousarray(rows[start : start + CHUNK].T)
            places = [self._places(column, i, start) for i, column in enumerate(columns)]
            widths, depths = places[1 : 1 + len(self.variables)], places[1 + len(self.variables) :]
            if self.tie == "uniform":
                found = self._from_tables(costs, places[0], widths[0], depths)
            else:
                atoms, present = self._atoms(widths), self._present(depths, len(places[0]))
                found = costs[0].at(atoms, present)
                for i, cost in enumerate(costs[1:], start=1):
                    np.copyto(found, cost.at(atoms, present), where=places[0] == i)
            result[start : start + CHUNK] = found
        return result

    def _from_tables(
        self, costs: Sequence[Cost], resolution: Int64Array, width: Int64Array, depths: Sequence[Int64Array]
    ) -> FloatArray:
        """Costs of archs with one width: a table per container of blocks."""
        if tuple(costs) not in self._tables:
            self._tables[tuple(costs)] = self._tabulated(costs)
        always, chains = self._tables[tuple(costs)]
        at = resolution * len(self.variables[0][1]) + width
        total = always.take(at)
        for chain, depth in zip(chains, depths, strict=True):
            total += chain.take(at * chain.shape[1] + depth)
        return total

    def _tabulated(self, costs: Sequence[Cost]) -> tuple[FloatArray, tuple[FloatArray, ...]]:
        """Costs per resolution and width ``(n,)``, and those of each container's blocks per depth ``(n, depths)``."""
        atoms = self._atoms([np.arange(len(self.variables[0][1]))])
        always = np.concatenate([cost.always.at(atoms) for cost in costs])
        chains, first = [], 0
        for chain in self.chains:
            numbers = range(first, first + len(chain.blocks))
            blocks = np.stack([np.concatenate([cost.blocks[i].at(atoms) for cost in costs]) for i in numbers])
            kept = range(len(chain.blocks) - (chain.length - chain.least), len(chain.blocks) + 1)
            chains.append(np.stack([blocks[:count].sum(0) for count in kept], axis=1))
            first += len(chain.blocks)
        return always, tuple(chains)

    @cached_property
    def _tables(self) -> dict[tuple[Cost, ...], tuple[FloatArray, tuple[FloatArray, ...]]]:
        """The tables of each cost that has been counted."""
        return {}

    @cached_property
    def _atom_tables(self) -> tuple[FloatArray, ...]:
        """Kept atoms of each group by the choice of its variable, ``(choices,)``."""
        tables: dict[int, FloatArray] = {}
        for _, choices, members in self.variables:
            for i in members:
                unit = self.groups[i].unit
                kept = (int(c) // unit if self.tie is None else self.atoms_of((i,), c)[0] for c in choices)
                tables[i] = np.array(list(kept), dtype=np.float64)
        return tuple(tables[i] for i in range(len(self.groups)))

    def _atoms(self, places: Sequence[Int64Array]) -> FloatArray:
        """Kept atoms ``(groups, n)`` for the positions of the choices of each variable."""
        atoms = np.empty((len(self.groups), len(places[0]) if places else 1))
        for (_, _, members), place in zip(self.variables, places, strict=True):
            for i in members:
                self._atom_tables[i].take(place, out=atoms[i], mode="clip")
        return atoms

    def _present(self, places: Sequence[Int64Array], n: int) -> FloatArray:
        """1 for each block that is there, ``(blocks, n)``, for the positions of the choices of each depth."""
        rows = [np.ones((0, n))]
        for chain, place in zip(self.chains, places, strict=True):
            kept = place + len(chain.blocks) - (chain.length - chain.least)
            rows.append((kept > np.arange(len(chain.blocks))[:, None]).astype(np.float64))
        return np.concatenate(rows)

    @cached_property
    def _place_tables(self) -> tuple[tuple[npt.NDArray[Any], Int64Array | None], ...]:
        """The choices of each entry, and (integers) the position of each value among them, or -1."""
        tables = []
        for _, choices in self.entries:
            values, places = np.asarray(choices), None
            if values.dtype.kind == "i":
                places = np.full(int(values[-1]) + 2, -1)
                places[values] = np.arange(len(values))
            tables.append((values, places))
        return tuple(tables)

    def _places(self, column: Rows, entry: int, start: int) -> Int64Array:
        """The position of each value of a column among the choices of an entry."""
        values, places = self._place_tables[entry]
        if places is not None and column.dtype.kind == "i":
            found: Int64Array = places.take(column, mode="clip")
            wrong = found < 0
        else:
            found = np.searchsorted(values, column).clip(max=len(values) - 1)
            wrong = values[found] != column
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"row {start + row}: arch entry {self.entries[entry][0]} is {column[row]}; the space {self.name} has "
                f"the choices {' '.join(map(str, values.tolist()))}"
            )
        return found
