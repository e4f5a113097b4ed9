"""The cost of a slimmable network as a polynomial of the channels that it keeps.

The multiply-accumulates and the parameters of a layer are a constant times the lengths of two dimensions, and each
length is a sum of the channels kept by some groups. The cost of a network is thus a quadratic polynomial. The layers of
a block that can be dropped have a polynomial of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_EXACT = 2**53
"""Integers up to this are exact in float64, in which matrix products are fast."""


@dataclass(frozen=True, eq=False)
class Part:
    """A quadratic polynomial ``x @ quadratic @ x``, where ``x`` is 1 followed by the kept atoms of some groups.

    Attributes:
        columns: The groups.
        quadratic: ``(1 + columns, 1 + columns)``, upper triangular, integers.
    """

    columns: Int64Array
    quadratic: FloatArray

    def at(self, atoms: FloatArray) -> FloatArray:
        """Its values ``(n,)`` for kept atoms ``(n, groups)``."""
        chosen = atoms if len(self.columns) == atoms.shape[1] else atoms[:, self.columns]
        x = np.concatenate([np.ones((len(atoms), 1)), chosen], axis=1)
        result: FloatArray = np.einsum("ni,ni->n", x @ self.quadratic, x)
        return result


@dataclass(frozen=True, eq=False)
class Cost:
    """A cost of a network: what every arch has, and what each block that can be dropped adds.

    Attributes:
        always: The cost of all that cannot be dropped.
        blocks: The cost of each block.
    """

    always: Part
    blocks: tuple[Part, ...]

    def at(self, atoms: FloatArray, present: npt.NDArray[np.bool_]) -> Int64Array:
        """Costs ``(n,)`` of archs.

        Args:
            atoms: Kept atoms, ``(n, groups)``.
            present: Whether each block is there, ``(n, blocks)``.
        """
        total = self.always.at(atoms)
        for block, there in zip(self.blocks, present.T, strict=True):
            total += block.at(atoms) * there
        return total.astype(np.int64)


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
    parts = [_part(total, whole=number == 0) for number, total in enumerate(sums)]
    return Cost(parts[0], tuple(parts[1:]))


def _part(quadratic: FloatArray, *, whole: bool) -> Part:
    """The polynomial without the groups that it does not depend on, unless ``whole``."""
    used = [i for i in range(1, len(quadratic)) if whole or quadratic[i].any() or quadratic[:, i].any()]
    return Part(np.array(used, dtype=np.int64) - 1, quadratic[np.ix_([0, *used], [0, *used])])
