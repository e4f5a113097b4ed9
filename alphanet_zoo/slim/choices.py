"""The choices of a slimmable network, and what they cost. Plain Python and NumPy; loads no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.cost import Cost, FloatArray, Int64Array

Tie = Literal["uniform", "stage"]
Rows = npt.NDArray[Any]

MIN_ATOMS = 2
"""Least number of atoms that a group keeps."""

WIDTH_STEPS = 40
"""Steps per unit of width, if the widths are a range: 0.025."""

CHUNK = 4096
"""Archs that are counted at once."""


@dataclass(frozen=True)
class GroupSpec:
    """Channels that are kept or removed together.

    Attributes:
        name: The layer that computes them.
        channels: Their number.
        unit: Channels per atom, the smallest part that can be removed.
        stage: Number of the stage.
        choices: The numbers of channels that can be kept if the groups are not tied, ascending.
    """

    name: str
    channels: int
    unit: int
    stage: int
    choices: tuple[int, ...]


@dataclass(frozen=True)
class ChainSpec:
    """A container of modules of which the last residual blocks can be dropped.

    Attributes:
        container: Its name.
        blocks: Names of the blocks that can be dropped, in order.
        length: Number of modules in it.
        least: Least number of modules that stay.
    """

    container: str
    blocks: tuple[str, ...]
    length: int
    least: int


def atoms_at(total: int, unit: int, width: float, divisor: int) -> int:
    """The atoms that a group keeps at a width: the nearest multiple of ``divisor`` channels.

    As in the MobileNets, never less than 90 % of the exact share.

    Args:
        total: Atoms of the group.
        unit: Channels per atom.
        width: Share of the channels.
        divisor: Divisor of the number of channels.
    """
    if width >= 1:
        return total
    step, wanted = divisor // math.gcd(divisor, unit), width * total
    count = max(step, int(wanted + step / 2) // step * step)
    if count < 0.9 * wanted:
        count += step
    return min(total, max(count, MIN_ATOMS))


def atom_choices(total: int, unit: int, low: float, high: float, divisor: int) -> tuple[int, ...]:
    """The numbers of atoms that a group can keep, ascending; see `atoms_at` for the arguments."""
    step = divisor // math.gcd(divisor, unit)
    ends = {atoms_at(total, unit, width, divisor) for width in (low, high)}
    inner = {count for count in range(step, total, step) if min(ends) <= count <= max(ends)}
    return tuple(sorted(count for count in ends | inner if count >= min(MIN_ATOMS, total)))


def width_choices(widths: Sequence[float]) -> tuple[float, ...]:
    """Two widths stand for a range in steps of 1 / `WIDTH_STEPS`; more are the choices themselves."""
    if len(widths) != 2:
        return tuple(sorted(float(width) for width in widths))
    low, high = widths
    steps = range(math.ceil(low * WIDTH_STEPS - 1e-9), math.floor(high * WIDTH_STEPS + 1e-9) + 1)
    return tuple(sorted({float(low), float(high), *(step / WIDTH_STEPS for step in steps)}))


@dataclass(frozen=True, eq=False)
class SlimChoices:
    """The choices of a slimmable network. Its archs are all combinations of one choice per entry.

    Attributes:
        name: Name of the network.
        tie: 'uniform': one width for all groups; 'stage': one per stage; None: each group has its own.
        resolution: Choices of the side of the input, in pixels.
        widths: Choices of a tied width, as shares of the channels.
        divisor: Divisor of the numbers of channels.
        groups: The groups of channels.
        chains: The blocks that can be dropped.
        num_classes: Outputs of the network.
        macs: Multiply-accumulates for one image, per resolution.
        params: Parameters.
    """

    name: str
    tie: Tie | None
    resolution: tuple[int, ...]
    widths: tuple[float, ...]
    divisor: int
    groups: tuple[GroupSpec, ...]
    chains: tuple[ChainSpec, ...]
    num_classes: int
    macs: tuple[Cost, ...]
    params: Cost

    @cached_property
    def variables(self) -> tuple[tuple[str, tuple[float, ...], tuple[int, ...]], ...]:
        """The independent widths: name, choices, and the groups that follow it."""
        if self.tie is None:
            return tuple((g.name, g.choices, (i,)) for i, g in enumerate(self.groups))
        stages = sorted({g.stage for g in self.groups}) if self.tie == "stage" else [None]
        members = [tuple(i for i, g in enumerate(self.groups) if s is None or g.stage == s) for s in stages]
        return tuple((str(s), self.widths, m) for s, m in zip(stages, members, strict=True))

    @cached_property
    def entries(self) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """Name and choices of each scalar of an arch, in the order of `SlimArch.scalars`."""
        widths = [(f"width[{i}]", choices) for i, (_, choices, _) in enumerate(self.variables)]
        depths = [(f"depth[{i}]", tuple(range(c.least, c.length + 1))) for i, c in enumerate(self.chains)]
        return (("resolution", self.resolution), *widths, *depths)

    @cached_property
    def largest(self) -> SlimArch:
        """The arch with the largest choice of every entry."""
        return self._arch([choices[-1] for _, choices in self.entries])

    @cached_property
    def smallest(self) -> SlimArch:
        """The arch with the smallest choice of every entry."""
        return self._arch([choices[0] for _, choices in self.entries])

    def _arch(self, scalars: Sequence[float]) -> SlimArch:
        """The arch with these scalars."""
        end = 1 + len(self.variables)
        return SlimArch(int(scalars[0]), tuple(scalars[1:end]), tuple(int(d) for d in scalars[end:]))

    def __len__(self) -> int:
        """The number of archs."""
        return math.prod(len(choices) for _, choices in self.entries)

    def __bool__(self) -> bool:
        """Always true; ``len`` fails for spaces of more than 2**63 archs."""
        return True

    def __contains__(self, arch: object) -> bool:
        """Whether every entry of ``arch`` is one of the choices."""
        return isinstance(arch, SlimArch) and self._refusal(arch) is None

    def validate(self, arch: SlimArch) -> SlimArch:
        """Returns ``arch`` if it is in this space.

        Raises:
            ValueError: It is not; the message names the entry, its value and the choices.
        """
        refusal = self._refusal(arch)
        if refusal is not None:
            raise ValueError(refusal)
        return arch

    def _refusal(self, arch: SlimArch) -> str | None:
        """Why ``arch`` is not in this space; None if it is."""
        if not isinstance(arch, SlimArch):
            return f"{type(arch).__name__} is not a SlimArch; pass one, such as space.at(0.5)"
        for entry, count in (("width", len(self.variables)), ("depth", len(self.chains))):
            if len(getattr(arch, entry)) != count:
                return f"arch entry {entry} has {len(getattr(arch, entry))} values; the space {self.name} has {count}"
        for (entry, choices), value in zip(self.entries, arch.scalars, strict=True):
            if value not in choices:
                shown = " ".join(map(str, choices))
                return f"arch entry {entry} is {value}; the space {self.name} has the choices {shown}"
        return None

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
        at = resolution * len(self.widths) + width
        total = always.take(at)
        for chain, depth in zip(chains, depths, strict=True):
            total += chain.take(at * chain.shape[1] + depth)
        return total

    def _tabulated(self, costs: Sequence[Cost]) -> tuple[FloatArray, tuple[FloatArray, ...]]:
        """Costs per resolution and width ``(n,)``, and those of each container's blocks per depth ``(n, depths)``."""
        atoms = self._atoms([np.arange(len(self.widths))])
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
                group = self.groups[i]
                total = group.channels // group.unit
                kept = (
                    int(choice) // group.unit if self.tie is None else atoms_at(total, group.unit, choice, self.divisor)
                    for choice in choices
                )
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

    def to_dict(self) -> dict[str, Any]:
        """The choices as plain values, ready for JSON; the cost is not included."""
        return {
            "name": self.name,
            "tie": self.tie,
            "resolution": list(self.resolution),
            "widths": list(self.widths),
            "divisor": self.divisor,
            "groups": [{"name": g.name, "channels": g.channels, "unit": g.unit, "stage": g.stage} for g in self.groups],
            "depth": {c.container: list(range(c.least, c.length + 1)) for c in self.chains},
        }
