"""The cost of a slimmable network as a polynomial of the channels that it keeps.

The multiply-accumulates and the parameters of a layer are a constant times the lengths of two dimensions, and each
length is a sum of the channels kept by some groups. The cost of a network is thus a quadratic polynomial. The layers of
a block that can be dropped have a polynomial of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_EXACT = 2**53
"""Integers up to this are exact in float64, in which matrix products are fast."""

_SPARSE = 8
"""A polynomial with less than this many terms per group is evaluated term by term."""


@dataclass(frozen=True, eq=False)
class Part:
    """A quadratic polynomial of the atoms that some groups keep.

    Attributes:
        columns: The groups.
        constant: Its constant term.
        linear: Coefficients of the atoms, ``(columns,)``.
        quadratic: Coefficients of the products of two groups, ``(columns, columns)``, upper triangular.
    """

    columns: Int64Array
    constant: float
    linear: FloatArray
    quadratic: FloatArray

    def at(self, atoms: FloatArray) -> FloatArray:
        """Its values ``(n,)`` for kept atoms ``(groups, n)``."""
        kept = [atoms[i] for i in self.columns]
        total = np.full(atoms.shape[1], self.constant)
        if np.count_nonzero(self.quadratic) > _SPARSE * len(kept):
            inner = self.quadratic @ atoms[self.columns]
            inner += self.linear[:, None]
            inner *= atoms[self.columns]
            total += inner.sum(0)
            return total
        for i, own in enumerate(kept):
            factor = np.full(atoms.shape[1], self.linear[i])
            for j in np.flatnonzero(self.quadratic[i]):
                factor += self.quadratic[i, j] * kept[j]
            total += own * factor
        return total

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> Part:
        """Inverse of `to_dict`."""
        columns = np.array(spec["columns"], dtype=np.int64)
        quadratic = np.zeros((len(columns), len(columns)))
        for i, j, value in spec["quadratic"]:
            quadratic[i, j] = value
        return cls(columns, float(spec["constant"]), np.array(spec["linear"], dtype=np.float64), quadratic)

    def to_dict(self) -> dict[str, Any]:
        """The polynomial as plain integers, ready for JSON."""
        pairs = np.argwhere(self.quadratic).tolist()
        return {
            "columns": self.columns.tolist(),
            "constant": int(self.constant),
            "linear": [int(value) for value in self.linear],
            "quadratic": [[i, j, int(self.quadratic[i, j])] for i, j in pairs],
        }


@dataclass(frozen=True, eq=False)
class Cost:
    """A cost of a network: what every arch has, and what each block that can be dropped adds.

    Attributes:
        always: The cost of all that cannot be dropped.
        blocks: The cost of each block.
    """

    always: Part
    blocks: tuple[Part, ...]

    def at(self, atoms: FloatArray, present: FloatArray) -> FloatArray:
        """Costs ``(n,)`` of archs, which are integers.

        Args:
            atoms: Kept atoms, ``(groups, n)``.
            present: 1 for each block that is there, else 0, ``(blocks, n)``.
        """
        total = self.always.at(atoms)
        for block, there in zip(self.blocks, present, strict=True):
            total += block.at(atoms) * there
        return total

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> Cost:
        """Inverse of `to_dict`."""
        return cls(Part.from_dict(spec["always"]), tuple(map(Part.from_dict, spec["blocks"])))

    def to_dict(self) -> dict[str, Any]:
        """The polynomials as plain integers, ready for JSON."""
        return {"always": self.always.to_dict(), "blocks": [block.to_dict() for block in self.blocks]}


Length = tuple[int, dict[int, int]]
"""Length of a dimension: a constant, and the indices per kept atom of each group."""


def cost_of(terms: Sequence[tuple[int, Sequence[Length], int]], groups: int, blocks: int) -> Cost:
    """Sums products of lengths.

    Args:
        terms: A constant, at most two lengths by which it is multiplied, and the number of the block that the term
            belongs to (-1 if it cannot be dropped).
        groups: Number of groups.
        blocks: Number of blocks.
    """
    sums = [np.zeros((groups + 1, groups + 1)) for _ in range(blocks + 1)]
    for constant, lengths, block in terms:
        factors = [{0: fixed} | {group + 1: count for group, count in kept.items()} for fixed, kept in lengths]
        factors += [{0: 1}] * (2 - len(factors))
        for i, a in factors[0].items():
            for j, b in factors[1].items():
                sums[block + 1][min(i, j), max(i, j)] += constant * a * b
    assert all(total.sum() < _EXACT for total in sums)
    parts = [_part(total) for total in sums]
    return Cost(parts[0], tuple(parts[1:]))


def _part(quadratic: FloatArray) -> Part:
    """The polynomial ``x @ quadratic @ x`` with ``x`` 1 and the atoms, of the groups that it depends on."""
    used = [i for i in range(1, len(quadratic)) if quadratic[i].any() or quadratic[:, i].any()]
    columns = np.array(used, dtype=np.int64)
    return Part(columns - 1, float(quadratic[0, 0]), quadratic[0, columns], quadratic[np.ix_(columns, columns)])
