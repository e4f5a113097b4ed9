"""The choices of a slimmable network, and what they cost. Plain Python and NumPy; loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy.typing as npt

from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.cost import Cost
from alphanet_zoo.space.family import ProductSpace

Tie = Literal["uniform", "stage"]
Rows = npt.NDArray[Any]

FAMILY = "slimmable"
"""Entry ``family`` of the description of a space."""

MIN_ATOMS = 2
"""Least number of atoms that a group keeps."""

WIDTH_STEPS = 40
"""Steps per unit of width, if the widths are a range: 0.025."""


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


def _roundness(width: float) -> tuple[int, float]:
    """A key that sorts widths: multiples of most of 0.5, 0.25, 0.1 and 0.05 first; of equals the smallest."""
    steps = (0.5, 0.25, 0.1, 0.05)
    return sum(not round(width / step, 6).is_integer() for step in steps), width


@dataclass(frozen=True, eq=False, repr=False)
class SlimChoices(ProductSpace[SlimArch]):
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
        return tuple((str(s), self._distinct(m), m) for s, m in zip(stages, members, strict=True))

    def _distinct(self, members: Sequence[int]) -> tuple[float, ...]:
        """One width of those that keep the same channels of the groups ``members``: an end, else the roundest one."""
        equal: dict[tuple[int, ...], list[float]] = {}
        for width in self.widths:
            equal.setdefault(self.atoms_of(members, width), []).append(width)
        chosen = [min(widths, key=_roundness) for widths in equal.values()]
        chosen[0], chosen[-1] = self.widths[0], self.widths[-1]
        return tuple(sorted({*chosen}))

    def atoms_of(self, members: Sequence[int], width: float) -> tuple[int, ...]:
        """The atoms that each of some groups keeps at a width."""
        groups = [self.groups[i] for i in members]
        return tuple(atoms_at(g.channels // g.unit, g.unit, width, self.divisor) for g in groups)

    @cached_property
    def entries(self) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """Name and choices of each scalar of an arch, in the order of `SlimArch.scalars`."""
        widths = [(f"width[{i}]", choices) for i, (_, choices, _) in enumerate(self.variables)]
        depths = [(f"depth[{i}]", tuple(range(c.least, c.length + 1))) for i, c in enumerate(self.chains)]
        return (("resolution", self.resolution), *widths, *depths)

    def arch_of(self, scalars: Sequence[float]) -> SlimArch:
        """The arch with these scalars."""
        end = 1 + len(self.variables)
        return SlimArch(int(scalars[0]), tuple(scalars[1:end]), tuple(int(d) for d in scalars[end:]))

    def _refusal(self, arch: object) -> str | None:
        """Why ``arch`` is not in this space; None if it is."""
        if not isinstance(arch, SlimArch):
            return f"{type(arch).__name__} is not a SlimArch; pass one, such as space.at(0.5)"
        for entry, count in (("width", len(self.variables)), ("depth", len(self.chains))):
            if len(getattr(arch, entry)) != count:
                return f"arch entry {entry} has {len(getattr(arch, entry))} values; the space {self.name} has {count}"
        for i, ((_, choices), value) in enumerate(zip(self.entries, arch.scalars, strict=True)):
            if value not in choices:
                return self.refusal(i, value)
        return None

    def to_dict(self) -> dict[str, Any]:
        """The space as plain values, ready for JSON; `from_dict` is the inverse."""
        return {
            "family": FAMILY,
            "name": self.name,
            "tie": self.tie,
            "resolution": list(self.resolution),
            "widths": list(self.widths),
            "divisor": self.divisor,
            "groups": [asdict(group) | {"choices": list(group.choices)} for group in self.groups],
            "chains": [asdict(chain) | {"blocks": list(chain.blocks)} for chain in self.chains],
            "num_classes": self.num_classes,
            "macs": [cost.to_dict() for cost in self.macs],
            "params": self.params.to_dict(),
        }

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: ``spec`` is not the description of such a space.
        """
        if not isinstance(spec, Mapping) or spec.get("family") != FAMILY:
            raise ValueError(f"not the space of a slimmable network: its family must be {FAMILY!r}")
        try:
            return cls(
                name=str(spec["name"]),
                tie=spec["tie"],
                resolution=tuple(map(int, spec["resolution"])),
                widths=tuple(map(float, spec["widths"])),
                divisor=int(spec["divisor"]),
                groups=tuple(GroupSpec(**{**g, "choices": tuple(g["choices"])}) for g in spec["groups"]),
                chains=tuple(ChainSpec(**{**c, "blocks": tuple(c["blocks"])}) for c in spec["chains"]),
                num_classes=int(spec["num_classes"]),
                macs=tuple(map(Cost.from_dict, spec["macs"])),
                params=Cost.from_dict(spec["params"]),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"not the space of a slimmable network: {error!r}") from error

    def read_arch(self, spec: Mapping[str, Any]) -> SlimArch:
        """The arch that `SlimArch.to_dict` describes, which need not be in this space."""
        return SlimArch.from_dict(spec)

    def __repr__(self) -> str:
        """A summary; `to_dict` has all choices."""
        return f"<{type(self).__name__} {self.name}: {self.size:,} archs, {len(self.groups)} groups of channels>"

    def __eq__(self, other: object) -> bool:
        """Whether another space has the same choices and costs."""
        if not isinstance(other, SlimChoices):
            return NotImplemented
        return self is other or self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Equal for equal spaces."""
        return hash((self.name, self.tie, self.resolution, self.widths, self.groups, self.chains))
