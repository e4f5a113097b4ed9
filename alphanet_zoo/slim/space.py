"""The search space of a slimmable network: how to draw archs from it. Plain Python and NumPy; loads no torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alphanet_zoo.errors import TargetError
from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.choices import Rows
from alphanet_zoo.slim.cost import Int64Array
from alphanet_zoo.slim.counts import CHUNK, SlimCounts

_ENUMERATED = 2**20
_DRAWS = 2**22


def _millions(macs: float) -> str:
    """A number of MACs in millions, exact to one MAC."""
    return f"{macs / 1e6:.6f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, eq=False, repr=False)
class SlimSpace(SlimCounts):
    """All archs of one slimmable network.

    The methods are those of `alphanet_zoo.space.space.SearchSpace`; the space counts the cost itself. Attributes as
    `alphanet_zoo.slim.choices.SlimChoices`.
    """

    def at(self, width: float, *, resolution: int | None = None) -> SlimArch:
        """The arch nearest to a width, with all blocks.

        Args:
            width: Share of the channels that every group keeps.
            resolution: Side of the input; None is the largest.

        Raises:
            ValueError: ``width`` or ``resolution`` is outside the space.
        """
        if not self.widths[0] <= width <= self.widths[-1]:
            raise ValueError(
                f"width {width} is outside {self.widths[0]} to {self.widths[-1]}, the range of {self.name}"
            )
        nearest = min(self.widths, key=lambda choice: abs(choice - width))
        chosen: list[float] = []
        for _, choices, members in self.variables:
            if self.tie is None:
                wanted = width * self.groups[members[0]].channels
                chosen.append(min(choices, key=lambda choice: abs(choice - wanted)))
            else:
                atoms = self.atoms_of(members, nearest)
                chosen.append(next(choice for choice in choices if self.atoms_of(members, choice) == atoms))
        depths = [chain.length for chain in self.chains]
        return self.validate(SlimArch(resolution or self.resolution[-1], tuple(chosen), tuple(depths)))

    @cached_property
    def _catalogue(self) -> tuple[Rows, Int64Array] | None:
        """All archs with their MACs, in ascending order of MACs; None if there are too many."""
        if self.size > _ENUMERATED:
            return None
        axes = np.meshgrid(*(np.asarray(c, dtype=np.float64) for _, c in self.entries), indexing="ij")
        rows = np.stack([axis.ravel() for axis in axes], axis=1)
        macs = self.count_rows(rows, self.macs)
        order = np.argsort(macs, kind="stable")
        return rows[order], macs[order]

    def count_within(self, low: float, high: float, num_classes: int | None = None) -> int | None:
        """The number of archs that cost ``low`` to ``high`` MACs (inclusive); None if the space is too large."""
        if self._catalogue is None:
            return None
        _, macs = self._catalogue
        return int(np.searchsorted(macs, high, side="right") - np.searchsorted(macs, low))

    def sample_within(
        self, low: float, high: float, n: int, rng: np.random.Generator, *, num_classes: int | None = None
    ) -> list[SlimArch]:
        """Draws ``n`` archs exactly uniformly from those that cost ``low`` to ``high`` MACs (inclusive).

        A space of up to 2**20 archs is enumerated. A larger one is sampled by rejection: archs are drawn as by
        `sample` until ``n`` of them are within the window.

        Args:
            low: Least cost, in multiply-accumulates (not millions).
            high: Greatest cost, in multiply-accumulates.
            n: Number of archs, drawn with replacement.
            rng: Source of randomness.
            num_classes: Must be the outputs of the network, or None.

        Raises:
            TargetError: (a ValueError) No arch costs that much, or too few draws were within the window; the message
                states the possible costs or the share of the draws.
            ValueError: ``low`` is above ``high``, a bound is not a number, or ``n`` is negative or not an integer.
        """
        if math.isnan(low) or math.isnan(high) or low > high:
            raise ValueError(f"the window of MACs is {low} to {high}; pass two numbers, the lower one first")
        if not hasattr(n, "__index__") or operator.index(n) < 0:
            raise ValueError(f"the number of archs to draw is {n!r}; pass an integer of at least 0")
        least, most = (self.count_macs(arch, num_classes) for arch in (self.smallest, self.largest))
        if high < least or low > most:
            raise TargetError(
                f"no arch of {self.name} costs {_millions(low)} to {_millions(high)} M MACs; its archs cost "
                f"{_millions(least)} to {_millions(most)} M"
            )
        rows = list(self._enumerated(low, high, n, rng) if self._catalogue else self._rejected(low, high, n, rng))
        return [self.arch_of(self._plain(row)) for row in rows]

    def _plain(self, row: Rows) -> list[float]:
        """A row as the Python numbers of the choices."""
        return [choices[int(np.searchsorted(choices, v))] for (_, choices), v in zip(self.entries, row, strict=True)]

    def _enumerated(self, low: float, high: float, n: int, rng: np.random.Generator) -> Iterator[Rows]:
        """Draws from the catalogue."""
        assert self._catalogue is not None
        rows, macs = self._catalogue
        first, end = np.searchsorted(macs, low), np.searchsorted(macs, high, side="right")
        if first == end:
            nearest = [_millions(float(macs[i])) for i in (first - 1, end) if 0 <= i < len(macs)]
            raise TargetError(
                f"no arch of {self.name} costs {_millions(low)} to {_millions(high)} M MACs; the nearest cost "
                f"{' and '.join(nearest)} M"
            )
        yield from rows[rng.integers(first, end, size=n)]

    def _rejected(self, low: float, high: float, n: int, rng: np.random.Generator) -> Iterator[Rows]:
        """Draws until ``n`` archs are within the window."""
        found, drawn = 0, 0
        while found < n:
            if drawn >= _DRAWS:
                raise TargetError(
                    f"{found} of {drawn} random archs of {self.name} cost {_millions(low)} to {_millions(high)} M MACs "
                    f"(acceptance {found / drawn:.1e}), and {n} were asked for; pass a wider window, or tie widths"
                )
            rows = self.sample_array(16 * CHUNK, rng)
            macs = self.count_rows(rows, self.macs)
            inside = rows[(macs >= low) & (macs <= high)][: n - found]
            found, drawn = found + len(inside), drawn + len(rows)
            yield from inside
